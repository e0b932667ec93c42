"""CISPO (MiniMax-M1, 2506.13585): the importance weight is clipped, not the update."""

from dataclasses import dataclass

from rlvr.algorithm.metrics import Mean
from rlvr.algorithm.objectives.base import OBJECTIVES, PerToken, PolicyGradient, Term
from rlvr.registry import require
from rlvr.types import TokenBatch


@OBJECTIVES.register("cispo")
@dataclass
class Cispo(PolicyGradient):
    """−sg(min(r, 1+ε_high)) · A · logp: every token keeps a gradient."""

    clip_high: float = 0.28  # not stated in the paper, which has no lower bound

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.clip_high > 0, f"clip_high must be positive, not {self.clip_high}")

    def token_loss(
        self, logp: PerToken, log_ratio: PerToken, advantage: PerToken, batch: TokenBatch
    ) -> Term:
        ratio = log_ratio.detach().exp()
        term = -ratio.clamp(max=1 + self.clip_high) * advantage * logp
        return term, {"policy/clip_high": Mean.of(ratio > 1 + self.clip_high)}
