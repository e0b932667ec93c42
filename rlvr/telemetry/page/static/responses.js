"use strict";
// The view of responses: what to show, and the groups.

const OUTCOMES = { correct: "✓", incorrect: "✗", unparseable: "?", timeout: "⏱", error: "!" };

// What the reader asks for, with what stands for it where nothing is said.
function asked(content) {
  const at = { run: "0", page: "1", color: "ca", ...place.now() };
  if (!content.runs[at.run]) at.run = "0";
  const steps = content.runs[at.run].blocks.map(([step]) => step);
  if (at.step !== "all" && steps.length && !steps.includes(Number(at.step))) {
    const near = (step) => Math.abs(step - Number(at.step ?? steps[0]));
    at.missing = at.step;
    at.step = String(steps.reduce((a, b) => (near(b) < near(a) ? b : a)));
  }
  return { ...at, steps };
}

function controls(content, at) {
  const go = (key) => (value) => place.go({ [key]: value, page: null, group: null, token: null });
  const k = at.steps.indexOf(Number(at.step));
  const to = (step, told, name) => {
    const move = () => go("step")(step);
    const off = step === undefined;
    return element("button", { type: "button", disabled: off, onclick: move, title: name }, told);
  };
  const steps = [...at.steps.map((s) => [s, s]), ...(at.steps.length > 1 ? [["all", "all"]] : [])];
  const runs = content.runs.map((run, number) => [number, run.short]);
  const search = element("input", {
    type: "search",
    id: "search",
    value: at.q ?? "",
    placeholder: "text of prompt or response",
    onchange: (event) => go("q")(event.target.value),
  });
  const signs = [["", "any"], [1, "A > 0"], [0, "A = 0"], [-1, "A < 0"]];
  const outcomes = [["", "any"], ...Object.keys(OUTCOMES).map((name) => [name, name])];
  const colors = [["ca", "c · A: weight in the update"], ["c", "c − 1: what credit changes"]];
  const step = choice("Step", "step", steps, at.step, go("step"));
  const before = to(at.steps[k - 1], "‹", "The step before ([)");
  const after = to(k < 0 ? undefined : at.steps[k + 1], "›", "The next step (])");
  return element(
    "div",
    { className: "controls", role: "search" },
    runs.length > 1 ? choice("Run", "run", runs, at.run, go("run")) : null,
    at.steps.length > 1 ? element("span", { className: "stepper" }, before, step, after) : null,
    choice("Verdict", "outcome", outcomes, at.outcome ?? "", go("outcome")),
    choice("Advantage", "sign", signs, at.sign ?? "", go("sign")),
    element("label", {}, element("span", {}, "Search"), search),
    choice("Color", "color", colors, at.color, go("color")),
    runs.length > 1 ? beside(content, at, go("with")) : null,
  );
}

// Which other runs' responses to the same prompts are shown beside.
function beside(content, at, go) {
  const now = new Set((at.with ?? "").split(",").filter(Boolean));
  const box = (run, number) => {
    const change = (event) => {
      now[event.target.checked ? "add" : "delete"](String(number));
      go([...now].sort().join(","));
    };
    const checked = now.has(String(number));
    const input = element("input", { type: "checkbox", checked, onchange: change });
    return element("label", {}, input, run.short);
  };
  const boxes = content.runs.map((run, n) => (String(n) === at.run ? null : box(run, n)));
  return element("details", { className: "beside", open: now.size > 0 },
    element("summary", {}, "Beside other runs"), boxes);
}

function responseCard(group, response, scales, mode) {
  const { outcome, reward, advantage, tokens, finish, detail, origin } = response;
  const facts = [
    origin,
    `reward ${figure(reward)}`,
    `A ${figure(advantage)}`,
    `${tokens.length.toLocaleString("en")} tokens`,
    finish === "stop" ? "" : finish,
  ];
  const head = element("header", {},
    element("b", { className: `outcome ${outcome}` }, `${OUTCOMES[outcome] ?? "?"} ${outcome}`),
    element("span", { className: "facts" }, facts.filter(Boolean).join(" · ")));
  const said = element("small", {}, `verifier: ${visible(detail ?? "")}`);
  const variants = response.variants.map((variant) =>
    flow(response, variant, scales[variant.label], mode));
  const own = element("article", { className: "response", tabIndex: 0 }, head,
    element("div", { className: "variants" }, variants), detail ? said : null);
  own.dataset.place = `${group.step}.${group.place}.${response.sample}`;
  return own;
}

function groupCard(group, scales, mode, many) {
  const column = (title, responses) =>
    element("div", { className: "column" },
      element("h3", {}, `${title} (${responses.length})`),
      responses.map((response) => responseCard(group, response, scales, mode)));
  const right = group.responses.filter(({ outcome }) => outcome === "correct");
  const wrong = group.responses.filter(({ outcome }) => outcome !== "correct");
  const where = many ? `step ${group.step}, ` : "";
  const head = element("header", {},
    element("b", {}, `${where}group ${group.place + 1}`),
    element("span", { className: "facts" }, ` ${group.prompt_id}`),
    element("pre", { className: "prompt", tabIndex: 0 }, visible(group.prompt)),
    group.answer ? element("p", { className: "answer" }, `answer: ${group.answer}`) : null);
  const columns = [["Correct", right], ["Not correct", wrong]].filter(([, own]) => own.length);
  return element("section", { className: "group" }, head,
    element("div", { className: "columns" }, columns.map(([title, own]) => column(title, own))));
}

// The most raised and the most lowered tokens of what is selected, as links to them.
function extremesPanel(groups, mode) {
  const list = (title, found, method) => {
    const item = ({ group, response, i, value }) => {
      const go = () =>
        place.go({ group: `${group.step}.${group.place}.${response.sample}`, token: i, method });
      return element("li", {},
        element("button", { type: "button", className: "link context", onclick: go },
          element("span", { className: "figure" }, figure(value)), " ",
          visible(context(response.tokens, i)), element("mark", { className: tint(value, Math.abs(value)) },
            visible(response.tokens[i]) || "·")));
    };
    return element("div", {}, element("h4", {}, title), element("ol", {}, found.map(item)));
  };
  const methods = extremes(groups, mode, 10).map(({ label, equal, raised, lowered }) =>
    element("div", { className: "method" }, element("h3", {}, label),
      equal ? element("p", {}, "All coefficients are 1: no token stands out.") :
        element("div", { className: "columns" }, list("Most raised", raised.found, label),
          list("Most lowered", lowered.found, label))));
  if (!methods.length) return null;
  const summary = element("summary", {}, "The tokens most raised and lowered");
  const own = element("details", { className: "extremes", open: innerWidth > 900 }, summary);
  own.append(element("div", { className: "methods" }, methods));
  return own;
}

function pager(page, pages) {
  const go = (to) => () => place.go({ page: to, group: null, token: null });
  const button = (to, told, name) =>
    element("button", { type: "button", onclick: go(to), disabled: to < 1 || to > pages,
      title: name }, told);
  return element("nav", { className: "pager", "aria-label": "Pages" },
    button(page - 1, "‹ before", "The page before (p)"),
    element("span", {}, `page ${page} of ${pages}`),
    button(page + 1, "next ›", "The next page (n)"));
}

async function responsesView(content, progress) {
  const at = asked(content);
  const bar = controls(content, at);
  if (!at.steps.length) {
    const told = "No responses are recorded here (telemetry.log_responses=false).";
    return element("div", {}, bar, element("p", {}, told));
  }
  const { groups, all } = await selected(content, at, progress);
  const pages = paged(groups);
  let page = Math.min(Math.max(Number(at.page) || 1, 1), pages.length);
  if (at.group) {
    const has = (group) => at.group.startsWith(`${group.step}.${group.place}.`);
    page = 1 + Math.max(pages.findIndex((own) => own.some(has)), 0);
  }
  const shown = pages[page - 1];
  const count = groups.reduce((sum, group) => sum + group.responses.length, 0);
  const notes = [`${count.toLocaleString("en")} of ${all.toLocaleString("en")} responses`];
  const block = content.runs[at.run].blocks.find(([step]) => step === Number(at.step));
  if (block && block[1] < block[2]) {
    notes.push(`the step had ${block[2].toLocaleString("en")}; the page has room for these`);
  }
  if (at.missing) notes.push(`the page has none of step ${at.missing}; these are the nearest`);
  const first = groups[0]?.responses[0]?.variants[0];
  if (first && !first.known && groups.every((g) => g.responses.every((r) => !r.variants[0].known))) {
    notes.push("no token coefficients are recorded");
  }
  const scales = scalesOf(shown, at.color);
  return element("div", { className: "responses" }, bar,
    element("p", { className: "notes", role: "status" }, notes.join("; ")),
    Object.entries(scales).map(([label, scale]) => scaleBar(label, scale, at.color)),
    extremesPanel(groups, at.color),
    pager(page, pages.length),
    shown.map((group) => groupCard(group, scales, at.color, at.step === "all")),
    pages.length > 1 ? pager(page, pages.length) : null);
}

function scaleBar(label, scale, mode) {
  const cell = (side, level) => element("i", { className: `${side}-${level}` });
  const levels = Array.from({ length: LEVELS }, (_, k) => k + 1);
  const ends = mode === "c" ? 1 : 0;
  return element("p", { className: "scale" },
    element("b", {}, label), element("span", {}, `lowered ${figure(ends - scale)}`),
    levels.toReversed().map((level) => cell("lowered", level)), element("i", {}),
    levels.map((level) => cell("raised", level)),
    element("span", {}, `${figure(ends + scale)} raised`));
}
