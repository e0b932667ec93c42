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

from rlvr.telemetry.record import RunRecord

sys.path.append(str(Path(__file__).parent))
from sections import replace_section

BASELINE = {"credit": "uniform", "objective": "dapo"}
HEADING = "## Does it learn?"
PICTURE = "learning.png"
POINTS = 100  # of a curve


@dataclass(frozen=True)
class Curve:
    """One run: accuracy of its rollouts, before each step, against the tokens sampled so far."""

    tokens: np.ndarray
    accuracy: np.ndarray
    held_out: float  # avg@4 of the trained policy
    credit_share: float  # of the time that the learner takes: scoring and credit stage

    @classmethod
    def read(cls, run: Path) -> Curve:
        record = RunRecord.read(run)
        rows = record.steps
        tokens = np.cumsum([row["length/mean"] * row["rollout/responses"] for row in rows])
        accuracy = np.array([row["rollout/accuracy"] for row in rows])
        _, held_out = record.series("evaluation/avg_at_4/accuracy")
        spent = {
            stage: sum(row[f"time/{stage}_s"] for row in rows)
            for stage in ("score", "credit", "update")
        }
        learner = sum(spent.values())
        return cls(tokens, accuracy, held_out[-1], (spent["score"] + spent["credit"]) / learner)

    def at(self, tokens: np.ndarray) -> np.ndarray:
        return np.interp(tokens, self.tokens, self.accuracy)


Methods = dict[str, list[Curve]]  # by name, a curve per seed


def read(runs: Path) -> dict[str, Methods]:
    """The curves by what is compared (credit, objective), the baseline in both."""
    found: dict[str, dict[str, dict[int, Curve]]] = defaultdict(lambda: defaultdict(dict))
    for run in sorted(runs.glob("*=*,train.seed=*")):
        group, method, seed = re.fullmatch(r"(\w+)=(\w+),train\.seed=(\d+)", run.name).groups()
        if not (run / "summary.json").exists():
            sys.exit(f"{run} has not come to its end: call learning.sh again")
        found[group][method][int(seed)] = Curve.read(run)
    found["objective"]["dapo"] = found["credit"]["uniform"]
    return {
        group: {
            method: [curves[s] for s in sorted(curves)] for method, curves in sorted(by.items())
        }
        for group, by in found.items()
    }


def table(group: str, methods: Methods, grid: np.ndarray) -> list[str]:
    """A line per method: the mean over seeds and the deviation between them."""
    baseline = [c.at(grid).mean() for c in methods[BASELINE[group]]]
    lines = [
        f"| {group} | held out, avg@4 at the end | mean accuracy over the tokens | "
        "difference to the baseline, per seed | scoring and credit of the learner's time |",
        "| --- | --- | --- | --- | --- |",
    ]
    areas = {name: [c.at(grid).mean() for c in curves] for name, curves in methods.items()}
    for name in sorted(areas, key=lambda n: -float(np.mean(areas[n]))):
        curves, area = methods[name], areas[name]
        off = [a - b for a, b in zip(area, baseline, strict=True)]
        differences = " ".join(f"{100 * x:+.1f}" for x in off)
        lines.append(
            f"| `{name}` | {spread([c.held_out for c in curves])} | {spread(area)} | "
            f"{'baseline' if name == BASELINE[group] else differences} | "
            f"{np.mean([c.credit_share for c in curves]):.0%} |"
        )
    return lines


def spread(values: list[float]) -> str:
    return f"{100 * np.mean(values):.1f} ± {100 * np.std(values, ddof=1):.1f} %"


def draw(groups: dict[str, Methods], grid: np.ndarray, path: Path) -> None:
    """Mean over seeds, and the range between them, of every method."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 6), layout="constrained")
    for axes, (group, methods) in zip(
        figure.subplots(1, 2, sharey=True), groups.items(), strict=True
    ):
        fixed = {"credit": "dapo", "objective": "uniform credit"}[group]
        axes.set_title(f"{group}, with {fixed}")
        axes.set_xlabel("response tokens, thousands")
        axes.grid(alpha=0.3)
        for name, curves in methods.items():
            values = np.array([c.at(grid) for c in curves])
            style = {"color": "black", "linewidth": 2} if name == BASELINE[group] else {}
            (line,) = axes.plot(grid / 1e3, values.mean(0), label=name, **style)
            color = line.get_color()
            axes.fill_between(
                grid / 1e3, values.min(0), values.max(0), alpha=0.1, color=color, linewidth=0
            )
        axes.legend()
    figure.axes[0].set_ylabel("accuracy of the rollouts")
    figure.savefig(path, dpi=110)


def main() -> None:
    runs, folder = map(Path, sys.argv[1:])
    groups = read(runs)
    curves = [c for methods in groups.values() for cs in methods.values() for c in cs]
    budget = min(c.tokens[-1] for c in curves)
    grid = np.linspace(max(c.tokens[0] for c in curves), budget, POINTS)
    seeds = len(next(iter(groups["credit"].values())))
    lines = [
        HEADING,
        "",
        f"`bash tests/bench/learning.sh`: the quickstart task, {seeds} seeds of the same base "
        f"model, {budget / 1e3:.0f}k response tokens each, 4 updates a batch, lr 7e-5. Accuracy is "
        "that of the rollouts, over the tokens sampled before; ± is the deviation between seeds.",
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
