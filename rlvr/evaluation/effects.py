"""What single tokens did to the outcome: values before and after them, from continuations."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

_Z = 2.5758293035489004  # 99 %: of thousands of tokens, few without effect look decisive


@dataclass(frozen=True)
class Effects:
    """Δ_t = V(y_≤t) − V(y_<t) of audited tokens, estimated, beside what credit methods gave them.

    V is the mean reward of responses that go on from there. A token is decisive if the 99 %
    interval of its Δ leaves out 0.
    """

    response: Int[np.ndarray, "K"]  # which response a token is of
    position: Int[np.ndarray, "K"]  # its place in it
    advantage: Float[np.ndarray, "K"]  # A_i of the response
    doubt: Float[np.ndarray, "K"]  # 1 − π_t
    delta: Float[np.ndarray, "K"]
    low: Float[np.ndarray, "K"]
    high: Float[np.ndarray, "K"]
    reliability: float  # correlation of Δ's ranks by one half of the continuations and the other
    coefficients: Mapping[str, Float[np.ndarray, "K"]]  # c_t by method

    @property
    def decisive(self) -> Bool[np.ndarray, "K"]:
        return (self.low > 0) | (self.high < 0)

    def of(self, chosen: Bool[np.ndarray, "K"]) -> "Effects":
        """Those of some tokens; the reliability stays that of all."""
        return Effects(
            self.response[chosen],
            self.position[chosen],
            self.advantage[chosen],
            self.doubt[chosen],
            self.delta[chosen],
            self.low[chosen],
            self.high[chosen],
            self.reliability,
            {name: c[chosen] for name, c in self.coefficients.items()},
        )

    def sides(self) -> dict[str, "Effects"]:
        """All, and those of responses with a positive and with a negative advantage."""
        return {
            "all": self,
            "positive": self.of(self.advantage > 0),
            "negative": self.of(self.advantage < 0),
        }


def difference_interval(
    before: Float[np.ndarray, "K n"], after: Float[np.ndarray, "K n"], bottom: float, top: float
) -> tuple[Float[np.ndarray, "K"], Float[np.ndarray, "K"], Float[np.ndarray, "K"]]:
    """mean(after) − mean(before), and its 99 % interval.

    Newcombe's interval (1998, method 10: score intervals of either mean, combined), which holds
    for few samples and means near 0 and 1. Rewards lie between ``bottom`` and ``top``; those in
    between vary less than the two ends would, so that the interval is then too wide, never too
    narrow.
    """
    span = top - bottom if top > bottom else 1.0
    p, q = (x.mean(axis=1) for x in ((before - bottom) / span, (after - bottom) / span))
    (p_low, p_high), (q_low, q_high) = (
        _score_interval(m, x.shape[1]) for m, x in ((p, before), (q, after))
    )
    low = q - p - np.sqrt((q - q_low) ** 2 + (p_high - p) ** 2)
    high = q - p + np.sqrt((q_high - q) ** 2 + (p - p_low) ** 2)
    return span * (q - p), span * low, span * high


def _score_interval(
    p: Float[np.ndarray, "K"], n: int
) -> tuple[Float[np.ndarray, "K"], Float[np.ndarray, "K"]]:
    """Wilson's interval of a share."""
    centre = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    reach = _Z / (1 + _Z**2 / n) * np.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    return np.minimum(centre - reach, p), np.maximum(centre + reach, p)
