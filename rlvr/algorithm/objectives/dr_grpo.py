"""Dr.GRPO (2503.20783): GRPO's term, summed over tokens and divided by a constant."""

from dataclasses import dataclass

from rlvr.algorithm.objectives.base import OBJECTIVES, Clipped


@OBJECTIVES.register("dr_grpo")
@dataclass
class DrGrpo(Clipped):
    """−min(r A, clip(r, 1−ε, 1+ε) A), summed ÷ (responses × longest allowed response)."""

    aggregation: str = "constant"
