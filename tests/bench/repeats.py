"""What a benchmark measured several times over, and a Markdown table of such."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Repeats:
    """The same quantity, measured again and again; its figure is the median."""

    values: Sequence[float]

    @classmethod
    def seconds(cls, call: Callable[[], object], count: int, warm_up: int = 1) -> Repeats:
        """Of ``count`` calls, after those that warm up."""
        taken = []
        for _ in range(warm_up + count):
            started = time.perf_counter()
            call()
            taken.append(time.perf_counter() - started)
        return cls(taken[warm_up:])

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __format__(self, spec: str) -> str:
        """The median, and the least and the most in brackets."""
        low, high = min(self.values), max(self.values)
        return f"{self.median:{spec}} ({low:{spec}}–{high:{spec}})"


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines of Markdown."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
