"use strict";
// What there is to say of the runs beside their curves.

function runTables(content) {
  const labels = [];
  const runs = content.runs.filter((run) => run.table.length); // not evaluations
  for (const run of runs) {
    let at = 0;
    for (const [label] of run.table) {
      if (!labels.includes(label)) labels.splice(at, 0, label);
      at = labels.indexOf(label) + 1;
    }
  }
  const [, ...quantities] = labels; // the first is the name
  const own = runs.map((run) => new Map(run.table));
  const stages = (label) => label.startsWith(" ") || label === "a step";
  const rows = quantities
    .filter((label) => !stages(label))
    .map((label) => [label, ...own.map((run) => (run.get(label) ?? "–").replace("->", "→"))]);
  return table(["", ...runs.map((run) => run.short)], rows);
}

// Mean seconds of a step's stages, as measured and, where there is a plan, as planned.
function stageTables(content) {
  const runs = content.runs.filter((run) => run.stages.length);
  return runs.map((run) => {
    const whole = run.stages.find(([name]) => name === "step")?.[1];
    const planned = run.stages.some(([, , plan]) => plan !== null);
    const heads = ["a step's stages", "measured, s", "share"];
    const rows = run.stages.map(([name, seconds, plan]) => {
      const share = whole ? seconds / whole : null;
      const bar = element("meter", { max: 1, value: share ?? 0, title: `${figure(share)}` });
      const shown = share === null || share > 1 ? "–" : bar;
      const beside = plan === null ? ["–", "–"] : [figure(plan), figure(plan / seconds)];
      return [name, figure(seconds), shown, ...(planned ? beside : [])];
    });
    if (planned) heads.push("planned, s", "planned / measured");
    return element("figure", {}, element("figcaption", {}, run.short), table(heads, rows));
  });
}

function warningList(content) {
  const told = content.runs.flatMap((run, number) =>
    run.warnings.map(([step, words]) => {
      const go = () => place.go({ view: "responses", run: number, of: "training", step });
      const where = content.runs.length > 1 ? `${run.short}, step ${step}` : `step ${step}`;
      const link = element("button", { type: "button", className: "link", onclick: go }, where);
      return element("li", {}, link, ` ${words}`);
    }),
  );
  if (!told.length) return null;
  return element(
    "details",
    { open: told.length < 4 },
    element("summary", {}, element("h2", {}, `Warnings (${told.length})`)),
    element("ul", {}, told),
  );
}

function runsView(content) {
  charts.splice(0).forEach((u) => u.destroy());
  return element(
    "div",
    { className: "runs" },
    runTables(content),
    warningList(content),
    curves(content),
    element("h2", {}, "Where the time goes"),
    element("div", { className: "stages" }, stageTables(content)),
  );
}
