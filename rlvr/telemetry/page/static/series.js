"use strict";
// The values of a metric, and how an axis shows them.

// The mean of a family's runs at every step, and the least and the largest of them.
function spread(content, family, metric, steps) {
  const runs = content.families[family].runs.map((number) => {
    const run = content.runs[number];
    const [at, values] = run.evaluations[metric] ?? [run.steps, run.series[metric] ?? []];
    return new Map(at.map((step, i) => [step, values[i]]));
  });
  const columns = [[], [], []];
  for (const step of steps) {
    const own = runs.map((run) => run.get(step)).filter((v) => v !== null && v !== undefined);
    const none = own.length === 0;
    columns[0].push(none ? null : own.reduce((a, b) => a + b) / own.length);
    columns[1].push(none ? null : Math.min(...own));
    columns[2].push(none ? null : Math.max(...own));
  }
  return columns;
}

function stepsOf(content, metric) {
  const every = content.runs.flatMap((run) => {
    const [at] = run.evaluations[metric] ?? [metric in run.series ? run.steps : []];
    return at;
  });
  return [...new Set(every)].sort((a, b) => a - b);
}

// What a chart's values are multiples of: uPlot loses its way among numbers near 1e-16.
function unitOf(columns) {
  const most = Math.max(0, ...columns.flat().map(Math.abs));
  return most > 0 && most < 1e-5 ? 10 ** Math.floor(Math.log10(most)) : 1;
}

// The axis of values that are equal, as far as a chart can show, has room around them.
function rangeOf(u, low, high) {
  if (low === null) return [0, 1];
  const size = Math.max(Math.abs(low), Math.abs(high));
  if (high - low > size * 1e-6) return uPlot.rangeNum(low, high, 0.1, true);
  return size === 0 ? [0, 1] : [low - size / 10, high + size / 10];
}

// As few digits as tell the values of an axis apart.
function axisFigures(values) {
  const short = values.map((v) => figure(v).replace(/\.?0+e/, "e"));
  return new Set(short).size < short.length ? values.map((v) => String(+v.toPrecision(9))) : short;
}
