"""Sums and counts of metrics, added over portions here and over ranks by the driver."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from torch import Tensor

Pair = tuple[float, float]  # (sum, count)


class MetricSums:
    """Accumulates (sum, count) pairs without synchronising the device until they are read."""

    def __init__(self) -> None:
        self._pairs: dict[str, list[tuple[Tensor | float, Tensor | float]]] = defaultdict(list)

    def add(self, name: str, total: Tensor | float, count: Tensor | float) -> None:
        """Add ``total`` observed over ``count``; the metric is Σ total / Σ count."""
        detached = total.detach() if isinstance(total, Tensor) else total
        self._pairs[name].append((detached, count))

    def floats(self) -> dict[str, Pair]:
        """The sums so far; of a name that ends in ``_max``, the largest value and count 1."""
        result = {}
        for name, pairs in self._pairs.items():
            if name.endswith("_max"):
                result[name] = (max(float(t) / float(c) for t, c in pairs), 1.0)
            else:
                result[name] = (sum(float(t) for t, _ in pairs), sum(float(c) for _, c in pairs))
        return result


def means(ranks: Iterable[Mapping[str, Pair]]) -> dict[str, float]:
    """The metrics over all ranks; one whose name ends in ``_max`` is the largest of its kind."""
    gathered: dict[str, list[Pair]] = defaultdict(list)
    for metrics in ranks:
        for name, pair in metrics.items():
            gathered[name].append(pair)
    result = {}
    for name, pairs in gathered.items():
        total, count = sum(p[0] for p in pairs), sum(p[1] for p in pairs)
        if name.endswith("_max"):
            result[name] = max((t / c for t, c in pairs if c), default=0.0)
        elif count:
            result[name] = total / count
    return result
