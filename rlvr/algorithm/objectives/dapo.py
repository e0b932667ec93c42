"""DAPO (2503.14476): asymmetric clip, dual clip, mean over all tokens of the mini-batch.

The other parts of DAPO are settings of the run: ``train.overlong_buffer``,
``train.overlong_filter`` and ``train.dynamic_sampling``.
"""

from dataclasses import dataclass

import torch

from rlvr.algorithm.metrics import Mean
from rlvr.algorithm.objectives.base import OBJECTIVES, Clipped, PerToken, Term
from rlvr.registry import require
from rlvr.types import TokenBatch


@OBJECTIVES.register("dapo")
@dataclass
class Dapo(Clipped):
    """−min(r A, clip(r, 1−ε_low, 1+ε_high) A), and at most −dual_clip · A where A < 0."""

    clip_high: float = 0.28  # ε_high
    dual_clip: float | None = 10.0  # bound on r for A < 0; null: none

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.dual_clip is None or self.dual_clip > 1,
            f"dual_clip must be above 1 or null, not {self.dual_clip}",
        )

    def token_loss(
        self, logp: PerToken, log_ratio: PerToken, advantage: PerToken, batch: TokenBatch
    ) -> Term:
        term, metrics = super().token_loss(logp, log_ratio, advantage, batch)
        if self.dual_clip is not None:
            bound = -self.dual_clip * advantage
            beyond = (advantage < 0) & (term > bound)
            term = torch.where(beyond, bound, term)
            metrics["policy/clip_dual"] = Mean.of(beyond)
        return term, metrics
