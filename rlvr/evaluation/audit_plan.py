"""Which tokens of which responses an audit asks about, and which prefixes it needs the values of.

A token that was sampled with probability π_t changes the value by little where π_t is near 1:

    V(y_<t) = π_t V(y_≤t) + (1 − π_t) V(another token),   |V(y_≤t) − V(y_<t)| ≤ (1 − π_t) · range

so that along tokens whose 1 − π_t add up to a hundredth one value stands for all, and before the
end of a response its own reward: the continuations go to where something can be decided.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

TOLERANCE = 0.01  # of a value, as a share of the range of rewards; a fifth of the error of 64 draws


@dataclass(frozen=True)
class Audited:
    """A response, positions in it whose effect is estimated, and whose values tell it."""

    response: int
    positions: Int[np.ndarray, "k"]  # ascending
    before: Int[np.ndarray, "k"]  # tokens of the prefix that tells the value before it, ...
    after: Int[np.ndarray, "k"]  # ... and after it

    @property
    def lengths(self) -> list[int]:
        """Of the prefixes whose values are needed."""
        return np.unique(np.concatenate([self.before, self.after])).tolist()


def planned(
    doubt: Sequence[Float[np.ndarray, "_n"]],
    advantages: Float[np.ndarray, "S"],
    group: Sequence[int],
    most: int,
    budget: int,
) -> list[Audited]:
    """Responses and positions whose prefixes cost at most ``budget`` continued ones in all.

    Every group gives its first response of either side, then each its second, and so on: groups
    and sides have about equally many. Responses without an advantage are left out.

    Args:
        doubt: 1 − π_t of every token of every response; none of a response that is left out.
        advantages: A_i of each.
        group: of each.
        most: positions of a response, evenly spread over it; 0: all.
        budget: prefixes that may be continued. A whole response needs no continuation.
    """
    turn: dict[tuple[int, bool], int] = {}
    order = []
    for i, (g, advantage) in enumerate(zip(group, advantages.tolist(), strict=True)):
        if advantage and len(doubt[i]):
            key = g, advantage > 0
            turn[key] = turn.get(key, -1) + 1
            order.append((turn[key], g, advantage < 0, i))
    chosen = []
    for *_, i in sorted(order):
        positions, values = _spread(len(doubt[i]), most), valued(doubt[i])
        own = Audited(i, positions, values[positions], values[positions + 1])
        budget -= sum(length < len(doubt[i]) for length in own.lengths)
        if budget < 0:
            break
        chosen.append(own)
    return chosen


def valued(doubt: Float[np.ndarray, "n"]) -> Int[np.ndarray, "n+1"]:
    """For the first 0 … n tokens, of how many the value stands for theirs."""
    found = np.arange(len(doubt) + 1)
    passed = 0.0
    for k, own in enumerate(doubt.tolist()):
        passed += own
        if passed <= TOLERANCE:
            found[k + 1] = found[k]
        else:
            passed = 0.0
    return np.where(found == found[-1], len(doubt), found)


def _spread(length: int, most: int) -> Int[np.ndarray, "k"]:
    if not 0 < most < length:
        return np.arange(length)
    return np.unique(np.linspace(0, length - 1, most).round().astype(np.int64))
