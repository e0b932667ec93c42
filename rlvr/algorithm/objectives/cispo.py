"""CISPO (MiniMax-M1, 2506.13585): the importance weight is clipped, not the update."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from rlvr.algorithm.aggregation import token_mean
from rlvr.algorithm.metrics import Mean, Metric
from rlvr.algorithm.objectives.base import OBJECTIVES, PolicyGradient
from rlvr.registry import require
from rlvr.types import TokenBatch, Totals


@OBJECTIVES.register("cispo")
@dataclass
class Cispo(PolicyGradient):
    """−sg(min(r, 1+ε_high)) · A · logp: every token keeps a gradient."""

    clip_high: float = 0.28  # not stated in the paper, which has no lower bound

    def __post_init__(self) -> None:
        require(self.clip_high > 0, f"clip_high must be positive, not {self.clip_high}")

    def token_loss(
        self,
        logp: Float[Tensor, "n"],
        log_ratio: Float[Tensor, "n"],
        advantage: Float[Tensor, "n"],
        batch: TokenBatch,
    ) -> tuple[Float[Tensor, "n"], dict[str, Metric]]:
        ratio = log_ratio.detach().exp()
        term = -ratio.clamp(max=1 + self.clip_high) * advantage * logp
        return term, {"policy/clip_high": Mean.of(ratio > 1 + self.clip_high)}

    def aggregate(
        self, x: Float[Tensor, "n"], batch: TokenBatch, totals: Totals
    ) -> Float[Tensor, ""]:
        return token_mean(x, totals)
