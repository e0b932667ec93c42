"""``python tests/bench/learning.py RUNS FOLDER``: accuracy against tokens, method by method.

Reads the runs of ``learning.sh``, prints a table and puts it into ``FOLDER/RESULTS.md``, with
the curves beside it in ``learning.png``.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parent))
import curve
from curve import Curve, finished
from sections import replace_section

BASELINE = {"credit": "uniform", "objective": "dapo"}
HEADING = "## Does it learn?"
PICTURE = "learning.png"


@dataclass(frozen=True)
class Run:
    """What one run came to."""

    curve: Curve
    held_out: float  # avg@4 of the trained policy
    credit_share: float  # of the time that the learner takes: scoring and credit stage

    @classmethod
    def read(cls, run: Path) -> Run:
        record = finished(run, "learning.sh")
        _, held_out = record.series("evaluation/avg_at_4/accuracy")
        spent = {
            stage: sum(row[f"time/{stage}_s"] for row in record.steps)
            for stage in ("score", "credit", "update")
        }
        learner = sum(spent.values())
        share = (spent["score"] + spent["credit"]) / learner
        return cls(Curve.of(record), held_out[-1], share)


Methods = dict[str, list[Run]]  # by name, a run per seed


def read(runs: Path) -> dict[str, Methods]:
    """The runs by what is compared (credit, objective), the baseline in both."""
    found: dict[str, dict[str, dict[int, Run]]] = defaultdict(lambda: defaultdict(dict))
    for run in sorted(runs.glob("*=*,train.seed=*")):
        group, method, seed = re.fullmatch(r"(\w+)=(\w+),train\.seed=(\d+)", run.name).groups()
        found[group][method][int(seed)] = Run.read(run)
    found["objective"]["dapo"] = found["credit"]["uniform"]
    return {
        group: {method: [runs[s] for s in sorted(runs)] for method, runs in sorted(by.items())}
        for group, by in found.items()
    }


def table(group: str, methods: Methods, grid: np.ndarray) -> list[str]:
    """A line per method: the mean over seeds and the deviation between them."""
    baseline = [run.curve.at(grid).mean() for run in methods[BASELINE[group]]]
    lines = [
        f"| {group} | held out, avg@4 at the end | mean accuracy over the tokens | "
        "difference to the baseline, per seed | scoring and credit of the learner's time |",
        "| --- | --- | --- | --- | --- |",
    ]
    areas = {name: [r.curve.at(grid).mean() for r in runs] for name, runs in methods.items()}
    for name in sorted(areas, key=lambda n: -float(np.mean(areas[n]))):
        runs, area = methods[name], areas[name]
        off = [a - b for a, b in zip(area, baseline, strict=True)]
        differences = " ".join(f"{100 * x:+.1f}" for x in off)
        lines.append(
            f"| `{name}` | {spread([r.held_out for r in runs])} | {spread(area)} | "
            f"{'baseline' if name == BASELINE[group] else differences} | "
            f"{np.mean([r.credit_share for r in runs]):.0%} |"
        )
    return lines


def spread(values: list[float]) -> str:
    return f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1):.1f} %"


def draw(groups: dict[str, Methods], grid: np.ndarray, path: Path) -> None:
    """A panel for each of what is compared."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 6), layout="constrained")
    for axes, (group, methods) in zip(
        figure.subplots(1, 2, sharey=True), groups.items(), strict=True
    ):
        fixed = {"credit": "dapo", "objective": "uniform credit"}[group]
        axes.set_title(f"{group}, with {fixed}")
        curves = {name: [run.curve for run in runs] for name, runs in methods.items()}
        curve.draw(axes, curves, grid, BASELINE[group])
    figure.axes[0].set_ylabel("accuracy of the rollouts")
    figure.savefig(path, dpi=110)


def main() -> None:
    runs, folder = map(Path, sys.argv[1:])
    groups = read(runs)
    every = [r.curve for methods in groups.values() for own in methods.values() for r in own]
    grid = curve.grid_of(every)
    seeds = len(next(iter(groups["credit"].values())))
    lines = [
        HEADING,
        "",
        f"`bash tests/bench/learning.sh`: the quickstart task, {seeds} seeds of the same base "
        f"model, {grid[-1] / 1e3:.0f}k response tokens each, 4 updates a batch, lr 7e-5. Accuracy "
        "is that of the rollouts, over the tokens sampled before; ± is the deviation between "
        "seeds.",
        "",
    ]
    for group in groups:
        lines += [*table(group, groups[group], grid), ""]
    lines += [f"![accuracy against tokens]({PICTURE})", ""]
    print("\n".join(lines))
    draw(groups, grid, folder / PICTURE)
    replace_section(folder / "RESULTS.md", HEADING, lines)


if __name__ == "__main__":
    main()
