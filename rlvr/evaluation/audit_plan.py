"""Which tokens of which responses an audit asks about."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True)
class Audited:
    """A response and the positions in it whose effect is estimated."""

    response: int
    positions: Int[np.ndarray, "k"]  # ascending

    @property
    def lengths(self) -> list[int]:
        """Of the prefixes whose values tell the effects: before and after each position."""
        return np.unique(np.concatenate([self.positions, self.positions + 1])).tolist()


def planned(
    lengths: Sequence[int],
    advantages: np.ndarray,
    group: Sequence[int],
    most: int,
    budget: int,
) -> list[Audited]:
    """Responses and positions whose prefixes cost at most ``budget`` continued ones in all.

    Every group gives its first response of either side, then each its second, and so on: groups
    and sides have about equally many. Responses without an advantage are left out.

    Args:
        lengths: of all responses, in tokens.
        advantages: A_i of each.
        group: of each.
        most: positions of a response, evenly spread over it; 0: all.
        budget: prefixes that may be continued. A whole response needs no continuation.
    """
    turn: dict[tuple[int, bool], int] = {}
    order = []
    for i, (g, advantage) in enumerate(zip(group, advantages.tolist(), strict=True)):
        if advantage and lengths[i]:
            key = g, advantage > 0
            turn[key] = turn.get(key, -1) + 1
            order.append((turn[key], g, advantage < 0, i))
    chosen = []
    for *_, i in sorted(order):
        own = Audited(i, _spread(lengths[i], most))
        budget -= sum(length < lengths[i] for length in own.lengths)
        if budget < 0:
            break
        chosen.append(own)
    return chosen


def _spread(length: int, most: int) -> Int[np.ndarray, "k"]:
    if not 0 < most < length:
        return np.arange(length)
    return np.unique(np.linspace(0, length - 1, most).round().astype(np.int64))
