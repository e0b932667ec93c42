"""Accuracy of a run's rollouts against the tokens sampled, for comparisons of methods."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlvr.telemetry.record import RunRecord

POINTS = 100  # that curves are compared at


@dataclass(frozen=True)
class Curve:
    """Before each step of a run: the tokens sampled so far, and the accuracy of the rollouts."""

    tokens: np.ndarray
    accuracy: np.ndarray

    @classmethod
    def of(cls, record: RunRecord) -> Curve:
        rows = record.steps
        tokens = np.cumsum([row["length/mean"] * row["rollout/responses"] for row in rows])
        return cls(tokens, np.array([row["rollout/accuracy"] for row in rows]))

    def at(self, tokens: np.ndarray) -> np.ndarray:
        return np.interp(tokens, self.tokens, self.accuracy)

    def smoothed(self, steps: int) -> Curve:
        """The mean of so many steps, at the last of them."""
        mean = np.convolve(self.accuracy, np.ones(steps) / steps, "valid")
        return Curve(self.tokens[steps - 1 :], mean)


def finished(run: Path, script: str) -> RunRecord:
    """The run's record; ends the program if ``script`` has not brought it to its end."""
    record = RunRecord.read(run)
    if record.summary is None:
        sys.exit(f"{run} has not come to its end: call {script} again")
    return record


def grid_of(curves: list[Curve]) -> np.ndarray:
    """Numbers of tokens that all of them have gone through."""
    return np.linspace(max(c.tokens[0] for c in curves), min(c.tokens[-1] for c in curves), POINTS)


def draw(axes: Any, methods: dict[str, list[Curve]], grid: np.ndarray, baseline: str) -> None:
    """Mean over seeds, and the range between them, of every method."""
    for name, curves in methods.items():
        values = np.array([c.at(grid) for c in curves])
        style = {"color": "black", "linewidth": 2} if name == baseline else {}
        (line,) = axes.plot(grid / 1e3, values.mean(0), label=name, **style)
        axes.fill_between(
            grid / 1e3,
            values.min(0),
            values.max(0),
            alpha=0.1,
            color=line.get_color(),
            linewidth=0,
        )
    axes.set_xlabel("response tokens, thousands")
    axes.grid(alpha=0.3)
    axes.legend()
