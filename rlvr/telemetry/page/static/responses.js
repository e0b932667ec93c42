"use strict";
// The view of responses: groups of them, page by page.

function responseCard(group, response, scales, mode) {
  const { outcome, reward, advantage, length, finish, detail, origin } = response;
  const facts = [
    origin,
    `reward ${figure(reward)}`,
    advantage === null ? "" : `A ${figure(advantage)}`,
    `${length.toLocaleString("en")} tokens`,
    response.turns.length ? `${response.turns.length} turns` : "",
    finish === "stop" ? "" : finish,
  ];
  const head = element(
    "header",
    {},
    element("b", { className: `outcome ${outcome}` }, `${OUTCOMES[outcome] ?? "?"} ${outcome}`),
    element("span", { className: "facts" }, facts.filter(Boolean).join(" · ")),
  );
  const said = element("small", {}, `verifier: ${visible(detail ?? "")}`);
  const variants = response.variants.map((variant) =>
    flow(response, variant, scales[variant.label], mode),
  );
  const own = element(
    "article",
    { className: "response", tabIndex: 0 },
    head,
    element("div", { className: "variants" }, variants),
    detail ? said : null,
  );
  own.dataset.place = `${group.step}.${group.place}.${response.sample}`;
  return own;
}

function groupCard(group, scales, mode, many) {
  const column = (title, responses) =>
    element(
      "div",
      { className: "column" },
      element("h3", {}, `${title} (${responses.length})`),
      responses.map((response) => responseCard(group, response, scales, mode)),
    );
  const right = group.responses.filter(({ outcome }) => outcome === "correct");
  const wrong = group.responses.filter(({ outcome }) => outcome !== "correct");
  const where = many ? `step ${group.step}, ` : "";
  const head = element(
    "header",
    {},
    element("b", {}, `${where}group ${group.place + 1}`),
    element("span", { className: "facts" }, ` ${group.prompt_id}`),
    element("pre", { className: "prompt", tabIndex: 0 }, visible(group.prompt)),
    group.answer ? element("p", { className: "answer" }, `answer: ${group.answer}`) : null,
  );
  const columns = [
    ["Correct", right],
    ["Not correct", wrong],
  ].filter(([, own]) => own.length);
  return element(
    "section",
    { className: "group" },
    head,
    element(
      "div",
      { className: "columns" },
      columns.map(([title, own]) => column(title, own)),
    ),
  );
}

// The table of an evaluation.
const evaluated = ([heads, ...rows]) => table(heads, rows);

function pager(page, pages) {
  const go = (to) => () => place.go({ page: to, group: null, token: null });
  const button = (to, told, name) =>
    element(
      "button",
      { type: "button", onclick: go(to), disabled: to < 1 || to > pages, title: name },
      told,
    );
  return element(
    "nav",
    { className: "pager", "aria-label": "Pages" },
    button(page - 1, "‹ before", "The page before (p)"),
    element("span", {}, `page ${page} of ${pages}`),
    button(page + 1, "next ›", "The next page (n)"),
  );
}

async function responsesView(content, progress) {
  const at = asked(content);
  const bar = controls(content, at);
  if (!at.steps.length) {
    const told = "No responses yet, or none are recorded (telemetry.log_responses=false).";
    return element("div", {}, bar, element("p", {}, told));
  }
  const { groups, all } = await selected(content, at, progress);
  const pages = paged(groups);
  let page = Math.min(Math.max(Number(at.page) || 1, 1), pages.length);
  if (at.group) {
    const has = (group) => at.group.startsWith(`${group.step}.${group.place}.`);
    page =
      1 +
      Math.max(
        pages.findIndex((own) => own.some(has)),
        0,
      );
  }
  const shown = pages[page - 1];
  const count = groups.reduce((sum, group) => sum + group.responses.length, 0);
  const notes = [`${count.toLocaleString("en")} of ${all.toLocaleString("en")} responses`];
  const block = blocksOf(content, at.run, at.of).find(([step]) => step === Number(at.step));
  if (block && block[1] < block[2]) {
    notes.push(`the step had ${block[2].toLocaleString("en")}; the page has room for these`);
  }
  if (at.missing) notes.push(`the page has none of step ${at.missing}; these are the nearest`);
  const first = groups[0]?.responses[0]?.variants[0];
  if (
    at.of === "training" &&
    first &&
    !first.known &&
    groups.every((g) => g.responses.every((r) => !r.variants[0].known))
  ) {
    notes.push("no token coefficients are recorded");
  }
  const scales = scalesOf(shown, at.color);
  return element(
    "div",
    { className: "responses" },
    bar,
    content.runs[at.run].figures.length ? evaluated(content.runs[at.run].figures) : null,
    element("p", { className: "notes", role: "status" }, notes.join("; ")),
    Object.entries(scales).map(([label, scale]) => scaleBar(label, scale)),
    extremesPanel(groups, at.color),
    pager(page, pages.length),
    shown.map((group) => groupCard(group, scales, at.color, at.step === "all")),
    pages.length > 1 ? pager(page, pages.length) : null,
  );
}

function scaleBar(label, scale) {
  const cell = (side, level) => element("i", { className: `${side}-${level}` });
  const levels = Array.from({ length: LEVELS }, (_, k) => k + 1);
  return element(
    "p",
    { className: "scale" },
    element("b", {}, label),
    element("span", {}, `lowered ${figure(-scale)}`),
    levels.toReversed().map((level) => cell("lowered", level)),
    element("i", {}),
    levels.map((level) => cell("raised", level)),
    element("span", {}, `${figure(scale)} raised`),
  );
}
