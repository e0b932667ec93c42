"""Policy losses, one file each; ``base`` says what an objective is."""

from rlvr.algorithm.metrics import Max, Mean, Metric
from rlvr.algorithm.objectives.base import (
    OBJECTIVES,
    CoupledObjective,
    LossTerms,
    Objective,
    SelectingObjective,
)

__all__ = [
    "OBJECTIVES",
    "CoupledObjective",
    "LossTerms",
    "Max",
    "Mean",
    "Metric",
    "Objective",
    "SelectingObjective",
]
