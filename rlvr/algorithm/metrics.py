"""Metrics that add up: over micro-batches on a rank, then over ranks on the driver.

The type says how: a ``Mean`` adds sums and counts, a ``Max`` keeps the larger one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import Tensor


@dataclass(frozen=True)
class Mean:
    """Σ total / Σ count over all that is added."""

    total: Tensor | float | int
    count: Tensor | float | int

    def __post_init__(self) -> None:
        object.__setattr__(self, "total", _detached(self.total))

    @classmethod
    def of(cls, x: Shaped[Tensor, "n"]) -> Mean:
        """The mean over the entries of ``x``, bool or floating."""
        return cls(x.sum(dtype=torch.float64), x.numel())

    @property
    def value(self) -> float:
        """NaN where nothing was counted."""
        return float(self.total) / float(self.count) if self.count else float("nan")

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.count + other.count)

    def as_floats(self) -> Mean:
        return Mean(float(self.total), float(self.count))


@dataclass(frozen=True)
class Max:
    """The largest of all that is added."""

    value: Tensor | float | int

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", _detached(self.value))

    def __add__(self, other: Max) -> Max:
        return Max(max(float(self.value), float(other.value)))

    def as_floats(self) -> Max:
        return Max(float(self.value))


Metric = Mean | Max
"""Objectives and corrections report a dict of these, by name."""


def summed(reports: Iterable[Mapping[str, Metric]]) -> dict[str, Metric]:
    """Of every name the sum over ``reports``, in plain floats; waits for the device."""
    result: dict[str, Metric] = {}
    for report in reports:
        for name, metric in report.items():
            known, metric = result.get(name), metric.as_floats()
            result[name] = metric if known is None else known + metric  # type: ignore[operator]
    return result


def values(report: Mapping[str, Metric]) -> dict[str, float]:
    """What is logged; a mean of nothing is left out."""
    return {
        name: float(metric.value)
        for name, metric in report.items()
        if isinstance(metric, Max) or metric.count
    }


def _detached(x: Tensor | float) -> Tensor | float:
    return x.detach() if isinstance(x, Tensor) else x  # a report keeps no graph alive
