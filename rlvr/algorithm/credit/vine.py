"""VinePPO (2410.01679): the advantage of a reasoning step is what it changes in the value.

``steps`` has the formula, and why c_t = Δ/A_i. Here a response is cut into its lines (``segment:
newline``) or into stretches of as many tokens each (``segment: tokens``), and s_0 = 0.

As in the released code a token belongs to the step of its first character, a step after the first
begins with the newline before it, and the advantages are whitened; over the whole rollout batch,
where the release has a mini-batch. Otherwise than there blank lines are no steps of their own but
begin the one that follows (those at the end belong to the last), and no tokens are made anew from
text: a beginning is what was sampled.
"""

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from rlvr.algorithm.credit.base import CREDITS, Driver, Features, Ranks
from rlvr.algorithm.credit.steps import PerToken, StepAdvantages, whitened
from rlvr.registry import require, require_one_of
from rlvr.types import Sample, TokenBatch

_LINE = 30  # tokens, that a plan takes for a line


@CREDITS.register("vine")
@dataclass
class Vine(StepAdvantages):
    """Δ of the lines of a response, or of every so many tokens."""

    segment: str = "newline"  # newline | tokens: where steps end
    every: int = 32  # tokens a step, with segment=tokens
    max_steps: int | None = None  # of a response: the last of them goes to its end
    whiten: bool = True  # (Δ − mean) / std over the tokens with A ≠ 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("segment", self.segment, ("newline", "tokens"))
        require(self.every >= 1, f"every must be at least 1, not {self.every}")
        require(
            self.max_steps is None or self.max_steps >= 1,
            f"max_steps must be at least 1 or null, not {self.max_steps}",
        )

    def expected_steps(self, length: float) -> float:
        steps = length / (self.every if self.segment == "tokens" else _LINE)
        return max(1.0, min(steps, self.max_steps or steps))

    def cuts(self, sample: Sample, driver: Driver) -> list[int]:
        ids = sample.response.token_ids.tolist()
        by_tokens = self.segment == "tokens"
        cuts = [*range(0, len(ids), self.every)] if by_tokens else line_starts(driver.pieces(ids))
        return cuts[: self.max_steps]

    def advantages(
        self, delta: PerToken, batch: TokenBatch, features: Features, ranks: Ranks
    ) -> PerToken:
        return whitened(delta, batch.token_advantage != 0, ranks) if self.whiten else delta


def line_starts(pieces: Sequence[str]) -> list[int]:
    """Where the lines of a text begin, among the tokens that have these ``pieces`` of it."""
    text = "".join(pieces)
    blank = len(text) - len(text.lstrip())
    begins = [m.start() for m in re.finditer(r"\n\s*(?=\S)", text) if m.start() > blank]
    starts = [0, *accumulate(map(len, pieces))][: len(pieces)]
    first = (bisect_left(starts, begin) for begin in (0, *begins))
    return sorted({t for t in first if t < len(pieces)})
