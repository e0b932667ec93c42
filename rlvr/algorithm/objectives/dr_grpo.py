"""Dr.GRPO (2503.20783): GRPO's term, summed over tokens and divided by a constant."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from rlvr.algorithm.aggregation import sequence_sum
from rlvr.algorithm.objectives.base import OBJECTIVES
from rlvr.algorithm.objectives.grpo import Grpo, GrpoConfig
from rlvr.types import TokenBatch, Totals


@dataclass
class DrGrpoConfig(GrpoConfig):
    """Options of ``objective=dr_grpo``: those of GRPO."""

    name: str = "dr_grpo"


@OBJECTIVES.register("dr_grpo", DrGrpoConfig)
class DrGrpo(Grpo):
    """−min(r A, clip(r, 1−ε, 1+ε) A), summed ÷ (responses × longest allowed response)."""

    def aggregate(
        self, x: Float[Tensor, "n"], batch: TokenBatch, totals: Totals
    ) -> Float[Tensor, ""]:
        """Sum over tokens, without a length bias."""
        return sequence_sum(x, batch, totals)
