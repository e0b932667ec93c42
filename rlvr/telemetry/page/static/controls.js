"use strict";
// What of a run the reader asks for.

const OUTCOMES = { correct: "✓", incorrect: "✗", unparseable: "?", timeout: "⏱", error: "!" };

// What the reader asks for, with what stands for it where nothing is said.
function asked(content) {
  const at = { run: "0", page: "1", color: "ca", ...place.now() };
  if (!content.runs[at.run]) at.run = "0";
  const names = Object.keys(content.runs[at.run].responses);
  if (!names.includes(at.of)) at.of = names[0];
  const steps = blocksOf(content, at.run, at.of).map(([step]) => step);
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
  const names = Object.keys(content.runs[at.run].responses);
  const told = (name) => (name === "training" ? name : `evaluation: ${name.replace("_at_", "@")}`);
  const learned = at.of === "training" || at.of === "given"; // from which has an advantage
  const search = element("input", {
    type: "search",
    id: "search",
    value: at.q ?? "",
    placeholder: "text of prompt or response",
    onchange: (event) => go("q")(event.target.value),
  });
  const signs = [
    ["", "any"],
    [1, "A > 0"],
    [0, "A = 0"],
    [-1, "A < 0"],
  ];
  const outcomes = [["", "any"], ...Object.keys(OUTCOMES).map((name) => [name, name])];
  const colors = [
    ["ca", "c · A: weight in the update"],
    ["c", "c − 1: what credit changes"],
  ];
  const step = choice("Step", "step", steps, at.step, go("step"));
  const before = to(at.steps[k - 1], "‹", "The step before ([)");
  const after = to(k < 0 ? undefined : at.steps[k + 1], "›", "The next step (])");
  return element(
    "div",
    { className: "controls", role: "search" },
    runs.length > 1 ? choice("Run", "run", runs, at.run, go("run")) : null,
    names.length > 1 ? choice("Of", "of", names.map((n) => [n, told(n)]), at.of, go("of")) : null,
    at.steps.length > 1 ? element("span", { className: "stepper" }, before, step, after) : null,
    choice("Verdict", "outcome", outcomes, at.outcome ?? "", go("outcome")),
    learned ? choice("Advantage", "sign", signs, at.sign ?? "", go("sign")) : null,
    element("label", {}, element("span", {}, "Search"), search),
    learned ? choice("Color", "color", colors, at.color, go("color")) : null,
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
  return element(
    "details",
    { className: "beside", open: now.size > 0 },
    element("summary", {}, "Beside other runs"),
    boxes,
  );
}
