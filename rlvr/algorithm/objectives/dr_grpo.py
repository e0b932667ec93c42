"""Dr.GRPO (2503.20783): GRPO's term, summed over tokens and divided by a constant."""

from dataclasses import dataclass

from rlvr.algorithm.aggregation import sequence_sum
from rlvr.algorithm.objectives.base import OBJECTIVES
from rlvr.algorithm.objectives.grpo import Grpo


@OBJECTIVES.register("dr_grpo")
@dataclass
class DrGrpo(Grpo):
    """−min(r A, clip(r, 1−ε, 1+ε) A), summed ÷ (responses × longest allowed response)."""

    aggregate = staticmethod(sequence_sum)
