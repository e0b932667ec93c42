"""CISPO (MiniMax-M1, 2506.13585): the importance weight is clipped, not the update."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from rlvr.algorithm.aggregation import token_mean
from rlvr.algorithm.metrics import Mean, Metric
from rlvr.algorithm.objectives.base import OBJECTIVES, PolicyGradient
from rlvr.algorithm.registry import require
from rlvr.types import TokenBatch, Totals


@dataclass
class CispoConfig:
    """Options of ``objective=cispo``. The paper has no lower bound and states no upper one."""

    name: str = "cispo"
    clip_high: float = 0.28

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.clip_high > 0, f"clip_high must be positive, not {self.clip_high}")


@OBJECTIVES.register("cispo", CispoConfig)
class Cispo(PolicyGradient):
    """−sg(min(r, 1+ε_high)) · A · logp: every token keeps a gradient."""

    def __init__(self, config: CispoConfig) -> None:
        self.clip_high = config.clip_high

    def token_loss(
        self,
        logp: Float[Tensor, "n"],
        log_ratio: Float[Tensor, "n"],
        advantage: Float[Tensor, "n"],
        batch: TokenBatch,
    ) -> tuple[Float[Tensor, "n"], dict[str, Metric]]:
        """The weighted log-likelihood term."""
        ratio = log_ratio.detach().exp()
        term = -ratio.clamp(max=1 + self.clip_high) * advantage * logp
        return term, {"policy/clip_high": Mean.of(ratio > 1 + self.clip_high)}

    def aggregate(
        self, x: Float[Tensor, "n"], batch: TokenBatch, totals: Totals
    ) -> Float[Tensor, ""]:
        """Mean over all tokens of the mini-batch."""
        return token_mean(x, totals)
