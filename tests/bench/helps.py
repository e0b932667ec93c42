"""What ``helps.sh`` found: the best rate of every method, then a table and a picture.

``python tests/bench/helps.py rates RUNS`` prints a line ``METHOD RATE`` each;
``python tests/bench/helps.py table RUNS FOLDER`` puts the comparison into ``FOLDER/RESULTS.md``.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import t as student

from rlvr.telemetry.record import RunRecord

sys.path.append(str(Path(__file__).parent))
from sections import replace_section

HEADING = "## Does credit help?"
PICTURE = "helps.png"
BASELINE, WINDOW = "uniform", 10  # steps, of the curves that are drawn


@dataclass(frozen=True)
class Run:
    """What one run came to."""

    credit: str
    rate: str
    seed: int
    tokens: np.ndarray  # [steps], sampled before and in each step
    accuracy: np.ndarray  # [steps], of the rollouts
    average: float  # avg@8 on held-out questions, at the end
    passed: float  # pass@8
    seconds: float  # a step, the median

    @classmethod
    def read(cls, folder: Path) -> Run:
        credit, rate, seed = re.fullmatch(
            r"credit=(\w+),learner\.lr=([^,]+),train\.seed=(\d+)", folder.name
        ).groups()
        if not (folder / "summary.json").exists():
            sys.exit(f"{folder} has not come to its end: call helps.sh again")
        record = RunRecord.read(folder)
        rows = record.steps

        def last(name: str) -> float:
            _, values = record.series(f"evaluation/avg_at_8/{name}")
            return float(values[-1]) if len(values) else float("nan")

        return cls(
            credit,
            rate,
            int(seed),
            np.cumsum([row["length/mean"] * row["rollout/responses"] for row in rows]),
            np.array([row["rollout/accuracy"] for row in rows]),
            last("accuracy"),
            last("pass_at_8"),
            float(np.median([row["time/step_s"] for row in rows])),
        )

    @property
    def area(self) -> float:
        """Mean accuracy over the tokens."""
        return float(np.trapezoid(self.accuracy, self.tokens) / np.ptp(self.tokens))


def read(folder: Path) -> dict[str, list[Run]]:
    """The runs of every method, by seed."""
    found: dict[str, list[Run]] = defaultdict(list)
    for run in map(Run.read, sorted(folder.glob("credit=*"))):
        found[run.credit].append(run)
    return {credit: sorted(runs, key=lambda r: r.seed) for credit, runs in found.items()}


def best(runs: Path) -> dict[str, str]:
    """The rate of the largest area, by method."""
    return {
        credit: max(own, key=lambda run: run.area).rate
        for credit, own in read(runs / "tuned").items()
    }


def paired(values: list[float], baseline: list[float]) -> str:
    """Mean difference with its 95 % interval, in points."""
    off = 100 * (np.array(values) - np.array(baseline))
    if len(off) < 2:
        return f"{off.mean():+.1f}"
    half = student.ppf(0.975, len(off) - 1) * off.std(ddof=1) / np.sqrt(len(off))
    return f"{off.mean():+.1f} [{off.mean() - half:+.1f}, {off.mean() + half:+.1f}]"


def table(found: dict[str, list[Run]]) -> list[str]:
    """A line per method, the best first."""
    base = found[BASELINE]
    lines = [
        "| credit | rate | accuracy over the tokens | to uniform | avg@8 | to uniform | pass@8 "
        "| to uniform | seconds a step |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for credit, runs in sorted(found.items(), key=lambda x: -np.mean([r.area for r in x[1]])):
        if [r.seed for r in runs] != [r.seed for r in base]:
            sys.exit(f"{credit} and {BASELINE} have not run with the same seeds")
        cells = [f"`{credit}`", runs[0].rate]
        for name in ("area", "average", "passed"):
            own, other = ([getattr(r, name) for r in side] for side in (runs, base))
            cells += [f"{100 * np.mean(own):.1f} %", paired(own, other) if runs != base else ""]
        cells.append(f"{np.median([r.seconds for r in runs]):.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def draw(found: dict[str, list[Run]], path: Path) -> None:
    """Mean over seeds, and the range between them, smoothed over some steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    kernel = np.ones(WINDOW) / WINDOW
    for credit, runs in found.items():
        curves = np.array([np.convolve(run.accuracy, kernel, "valid") for run in runs])
        tokens = np.mean([run.tokens[WINDOW - 1 :] for run in runs], axis=0) / 1e6
        style = {"color": "black", "linewidth": 2} if credit == BASELINE else {}
        (line,) = axes.plot(tokens, curves.mean(0), label=credit, **style)
        axes.fill_between(
            tokens, curves.min(0), curves.max(0), alpha=0.1, color=line.get_color(), linewidth=0
        )
    axes.set_xlabel("response tokens, millions")
    axes.set_ylabel(f"accuracy of the rollouts, mean of {WINDOW} steps")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    what, runs, *folder = sys.argv[1:]
    if what == "rates":
        print("\n".join(f"{credit} {rate}" for credit, rate in best(Path(runs)).items()))
        return
    found = read(Path(runs) / "compared")
    base = found[BASELINE]
    steps, ends = len(base[0].accuracy), [np.mean([r.accuracy[i] for r in base]) for i in (0, -1)]
    grid = ", ".join(
        sorted({run.rate for own in read(Path(runs) / "tuned").values() for run in own})
    )
    lines = [
        HEADING,
        "",
        f"`bash tests/bench/helps.sh`: chains of 22 operations in 113 tokens, {steps} steps of 64 "
        f"responses in two updates, {base[0].tokens[-1] / 1e6:.2f} million response tokens, "
        f"{len(base)} paired seeds; the rate of each method is the best of {grid} on another seed. "
        f"Uniform goes from {ends[0]:.0%} to {ends[1]:.0%} of the rollouts. Differences are means "
        "over seeds with 95 % intervals (Student's t over the pairs), in points.",
        "",
        *table(found),
        "",
        f"![accuracy against tokens]({PICTURE})",
        "",
    ]
    print("\n".join(lines))
    draw(found, Path(folder[0]) / PICTURE)
    replace_section(Path(folder[0]) / "RESULTS.md", HEADING, lines)


if __name__ == "__main__":
    main()
