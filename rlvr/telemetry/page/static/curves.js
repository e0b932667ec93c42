"use strict";
// Every metric as a small chart; all of them move together.

const SECTIONS = [
  ["Learning", /^(evaluation\/|rollout\/(reward|accuracy)|groups\/)/],
  ["Verdicts", /^verifier\/(?!seconds)/],
  ["Lengths", /^length\//],
  ["Policy", /^(update\/(entropy|grad_norm|loss)|policy\/)/],
  ["Engine against learner", /^(mismatch|staleness)\//],
  ["Credit", /^credit\//],
  ["Time", /^(time|throughput)\//],
  ["Everything else", /./],
];
const DASHES = [[], [7, 4], [2, 3], [9, 3, 2, 3]];
const COLORS = 7;
const HEIGHT = 170;

const charts = []; // the uPlots on the page
const hidden = new Set(); // families that the reader has switched off

const strokeOf = (family) => color(`--line-${family % COLORS}`);

// A panel with the metric's chart, which draws itself when it comes into sight.
function panel(content, metric) {
  const read = element("output", { className: "reading" });
  const plot = element("div", { className: "plot" });
  const own = element(
    "figure",
    { className: "panel", tabIndex: 0, "data-metric": metric, role: "group" },
    element("figcaption", {}, element("b", {}, metric), read),
    plot,
  );
  own.setAttribute("aria-label", `${metric}: arrow keys move along, Enter opens the responses`);
  seen.observe(own);
  own.draw = () => {
    if (own.chart) return;
    own.chart = chart(content, metric, plot, read);
    own.addEventListener("keydown", (event) => move(content, own.chart, event));
  };
  return own;
}

const seen = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      entry.target.draw();
    }
  },
  { rootMargin: "300px" },
);

function chart(content, metric, plot, read) {
  const steps = stepsOf(content, metric);
  const spreads = content.families.map((_, f) => spread(content, f, metric, steps));
  const unit = unitOf(spreads.flat());
  const data = [steps];
  const series = [{}];
  const bands = [];
  content.families.forEach((family, f) => {
    const [mean, low, high] = spreads[f].map((own) => own.map((v) => (v === null ? v : v / unit)));
    const line = {
      label: family.label,
      stroke: () => strokeOf(f),
      width: 2,
      dash: DASHES[f % DASHES.length],
      spanGaps: true,
      show: !hidden.has(f),
      points: { show: metric.startsWith("evaluation/") || steps.length < 3, size: 6 },
    };
    data.push(mean);
    series.push(line);
    if (family.runs.length > 1) {
      const edge = { ...line, stroke: "transparent", width: 0, points: { show: false } };
      data.push(low, high);
      series.push({ ...edge }, { ...edge });
      const fill = () => `color-mix(in srgb, ${strokeOf(f)} 22%, transparent)`;
      bands.push({ series: [series.length - 1, series.length - 2], fill });
    }
  });
  const axis = {
    stroke: () => color("--faint"),
    grid: { stroke: () => color("--grid"), width: 1 },
    ticks: { stroke: () => color("--grid"), width: 1 },
    font: "11px system-ui, sans-serif",
  };
  const made = new uPlot(
    {
      width: plot.clientWidth || 320,
      height: HEIGHT,
      legend: { show: false },
      cursor: { sync: { key: "step" }, points: { size: 7 }, drag: { x: true, y: false } },
      scales: { x: { time: false }, y: { range: rangeOf } },
      axes: [
        { ...axis, size: 28, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000] },
        { ...axis, size: 64, values: (_, values) => axisFigures(values.map((v) => v * unit)) },
      ],
      series,
      bands,
      hooks: { setCursor: [(u) => (read.textContent = reading(content, u, unit))] },
    },
    data,
    plot,
  );
  let pressed = 0;
  made.over.addEventListener("pointerdown", (event) => (pressed = event.clientX));
  made.over.addEventListener("click", (event) => {
    if (Math.abs(event.clientX - pressed) < 4) follow(content, made, event.offsetY);
  });
  made.over.title = "Click: the responses of this step. Drag: a closer look; double click: back.";
  charts.push(made);
  return made;
}

// Of a chart, each family's line.
function lines(content, u) {
  let at = 1;
  return content.families.map((family) => {
    const own = at;
    at += family.runs.length > 1 ? 3 : 1;
    return own;
  });
}

function reading(content, u, unit) {
  const i = u.cursor.idx;
  if (i === null || i === undefined) return "";
  const values = lines(content, u)
    .filter((line) => u.series[line].show)
    .map((line) => u.data[line][i])
    .map((value) => figure(value === null ? null : value * unit));
  return `step ${u.data[0][i]}: ${values.join(" · ")}`;
}

// From a point to the responses of its step, of the run whose line is nearest.
function follow(content, u, top = null) {
  const i = u.cursor.idx;
  if (i === null || i === undefined) return;
  const near = lines(content, u)
    .map((line, family) => ({ family, line, value: u.data[line][i] }))
    .filter(({ line, value }) => u.series[line].show && value !== null)
    .map((own) => ({ ...own, off: top === null ? 0 : Math.abs(u.valToPos(own.value, "y") - top) }))
    .sort((a, b) => a.off - b.off);
  const numbers = near.length ? content.families[near[0].family].runs : [0];
  const measure = /^evaluation\/([^/]+)/.exec(u.root.closest(".panel").dataset.metric)?.[1];
  const of = measure ?? "training";
  const run = numbers.find((number) => blocksOf(content, number, of).length) ?? numbers[0];
  const at = { run, of, step: u.data[0][i] };
  place.go({ view: "responses", ...at, page: null, group: null, token: null });
}

function move(content, u, event) {
  const last = u.data[0].length - 1;
  const now = u.cursor.idx ?? -1;
  const next = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: last }[event.key];
  if (event.key === "Enter") return follow(content, u);
  if (next === undefined) return;
  event.preventDefault();
  const i = Math.max(0, Math.min(last, next));
  u.setCursor({ left: u.valToPos(u.data[0][i], "x"), top: u.over.clientHeight / 2 });
}

function legend(content) {
  const button = (family, f) => {
    const runs = family.runs.length;
    const told = runs > 1 ? `${family.label} (${runs} seeds: mean and range)` : family.label;
    const swatch = element("i", {
      className: `swatch line-${f % COLORS} dash-${f % DASHES.length}`,
    });
    const toggle = () => {
      hidden[hidden.has(f) ? "delete" : "add"](f);
      own.setAttribute("aria-pressed", String(!hidden.has(f)));
      for (const u of charts) {
        const line = lines(content, u)[f];
        const count = runs > 1 ? 3 : 1;
        for (let s = line; s < line + count; s++) u.setSeries(s, { show: !hidden.has(f) });
      }
    };
    const own = element("button", { type: "button", onclick: toggle }, swatch, told);
    own.setAttribute("aria-pressed", String(!hidden.has(f)));
    return own;
  };
  return element("div", { className: "legend" }, content.families.map(button));
}

function curves(content) {
  const metrics = new Set(
    content.runs.flatMap((run) => [...Object.keys(run.evaluations), ...Object.keys(run.series)]),
  );
  const sections = SECTIONS.map(([title, pattern], k) => {
    const own = [...metrics].filter((metric) => pattern.test(metric));
    own.forEach((metric) => metrics.delete(metric));
    if (!own.length) return null;
    const grid = element(
      "div",
      { className: "panels" },
      own.map((m) => panel(content, m)),
    );
    const heading = element("summary", {}, element("h2", {}, title));
    return element("details", { open: k < SECTIONS.length - 1 }, heading, grid);
  });
  return [legend(content), ...sections];
}

addEventListener("resize", () => {
  for (const u of charts) u.setSize({ width: u.root.parentNode.clientWidth, height: HEIGHT });
});
