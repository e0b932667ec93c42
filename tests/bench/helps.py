"""What ``helps.sh`` found: the best rate of every method, then a table and a picture.

``python tests/bench/helps.py rates RUNS`` prints a line ``METHOD RATE`` each;
``python tests/bench/helps.py table RUNS FOLDER`` prints the comparison and, where there are several
seeds, puts it into ``FOLDER/RESULTS.md``.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from scipy.stats import t as student

sys.path.append(str(Path(__file__).parent))
import curve
from curve import Curve, finished
from sections import replace_section

HEADING = "## Does credit help?"
PICTURE = "helps.png"
BASELINE, WINDOW = "uniform", 20  # steps, of the curves that are drawn


@dataclass(frozen=True)
class Run:
    """What one run came to."""

    credit: str
    rate: float
    seed: int
    curve: Curve
    average: float  # avg@8 on held-out questions, at the end
    passed: float  # pass@8
    seconds: float  # a step, the median

    @classmethod
    def read(cls, folder: Path) -> Run:
        record = finished(folder, "helps.sh")
        config = yaml.safe_load((folder / "config.yaml").read_text())

        def last(name: str) -> float:
            _, values = record.series(f"evaluation/avg_at_8/{name}")
            return float(values[-1]) if len(values) else float("nan")

        return cls(
            config["credit"]["name"],
            float(config["learner"]["lr"]),
            int(config["train"]["seed"]),
            Curve.of(record),
            last("accuracy"),
            last("pass_at_8"),
            float(np.median([row["time/step_s"] for row in record.steps])),
        )


Methods = dict[str, list[Run]]  # by name, in the order of their seeds


def read(folder: Path) -> Methods:
    """All runs below the folder."""
    found: Methods = defaultdict(list)
    for config in sorted(folder.rglob("config.yaml")):
        run = Run.read(config.parent)
        found[run.credit].append(run)
    return {credit: sorted(runs, key=lambda r: r.seed) for credit, runs in found.items()}


def grid_of(found: Methods) -> np.ndarray:
    return curve.grid_of([run.curve for runs in found.values() for run in runs])


def best(tuned: Methods) -> dict[str, float]:
    """The rate of the highest accuracy over the tokens, by method."""
    grid = grid_of(tuned)
    return {
        credit: max(runs, key=lambda run: run.curve.at(grid).mean()).rate
        for credit, runs in tuned.items()
    }


def short(rate: float) -> str:
    return np.format_float_scientific(rate, trim="-", exp_digits=1)


def tried(tuned: Methods) -> list[str]:
    """The accuracy over the tokens of every method at every rate; nothing if rates were not tried.

    A run that is not there has no figure.
    """
    if not tuned:
        return []
    grid, rates = grid_of(tuned), sorted({r.rate for runs in tuned.values() for r in runs})
    lines = [
        f"| on the other seed | {' | '.join(map(short, rates))} |",
        "| --- " * (1 + len(rates)) + "|",
    ]
    for credit, runs in tuned.items():
        found = {r.rate: f"{100 * r.curve.at(grid).mean():.1f} %" for r in runs}
        lines.append(f"| `{credit}` | {' | '.join(found.get(rate, '') for rate in rates)} |")
    return [*lines, ""]


def paired(values: list[float], baseline: list[float]) -> str:
    """Mean difference with its 95 % interval, in points."""
    off = 100 * (np.array(values) - np.array(baseline))
    if len(off) < 2:
        return f"{off.mean():+.1f}"
    half = student.ppf(0.975, len(off) - 1) * off.std(ddof=1) / np.sqrt(len(off))
    return f"{off.mean():+.1f} [{off.mean() - half:+.1f}, {off.mean() + half:+.1f}]"


def table(found: Methods) -> list[str]:
    """A line per method, the best first."""
    grid = grid_of(found)
    figures: dict[str, Callable[[Run], float]] = {
        "accuracy over the tokens": lambda run: float(run.curve.at(grid).mean()),
        "avg@8": lambda run: run.average,
        "pass@8": lambda run: run.passed,
    }
    over_tokens, *_ = figures.values()
    titles = ["credit", "rate", *(t for name in figures for t in (name, f"to {BASELINE}"))]
    titles.append("seconds a step")
    lines = [f"| {' | '.join(titles)} |", "| --- " * len(titles) + "|"]
    base = found[BASELINE]
    for credit in sorted(found, key=lambda c: -np.mean(list(map(over_tokens, found[c])))):
        runs = found[credit]
        if [r.seed for r in runs] != [r.seed for r in base]:
            sys.exit(f"{credit} and {BASELINE} have not run with the same seeds")
        cells = [f"`{credit}`", short(runs[0].rate)]
        for figure in figures.values():
            own, other = (list(map(figure, side)) for side in (runs, base))
            cells += [f"{100 * np.mean(own):.1f} %", "" if runs is base else paired(own, other)]
        cells.append(f"{np.median([r.seconds for r in runs]):.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def draw(found: Methods, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    window = min(WINDOW, len(found[BASELINE][0].curve.tokens))
    smooth = {name: [r.curve.smoothed(window) for r in runs] for name, runs in found.items()}
    every = curve.grid_of([c for curves in smooth.values() for c in curves])
    curve.draw(axes, smooth, every, BASELINE)
    axes.set_ylabel(f"accuracy of the rollouts, mean of {window} steps")
    figure.savefig(path, dpi=110)


def main() -> None:
    what, runs, *folder = sys.argv[1:]
    tuned = read(Path(runs) / "tuned")
    if what == "rates":
        print("\n".join(f"{credit} {rate:g}" for credit, rate in best(tuned).items()))
        return
    found = read(Path(runs) / "compared")
    base = found[BASELINE]
    ends = [np.mean([run.curve.accuracy[i] for run in base]) for i in (0, -1)]
    rates = "the rate of each method is its best on another seed" if tuned else "one rate"
    lines = [
        HEADING,
        "",
        "`bash tests/bench/helps.sh`: chains of 22 operations in 113 tokens, 20 facts of 190 to be "
        f"found out, {len(base[0].curve.tokens)} steps of 16 responses in groups of 4, "
        f"{grid_of(found)[-1] / 1e6:.2f} million response tokens, {len(base)} paired seeds; "
        f"{rates}. Uniform goes from {ends[0]:.0%} to "
        f"{ends[1]:.0%} of the rollouts. Differences are means over seeds with 95 % intervals "
        "(Student's t over the pairs), in points.",
        "",
        *table(found),
        "",
        *tried(tuned),
        f"![accuracy against tokens]({PICTURE})",
        "",
    ]
    print("\n".join(lines))
    if len(base) < 2:
        return print("One seed tells nothing apart: it is neither drawn nor written down.")
    draw(found, Path(folder[0]) / PICTURE)
    replace_section(Path(folder[0]) / "RESULTS.md", HEADING, lines)


if __name__ == "__main__":
    main()
