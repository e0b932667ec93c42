"""Policy losses, one file each; ``base`` says what an objective is."""

from rlvr.algorithm.objectives.base import (
    OBJECTIVES,
    CoupledObjective,
    LossTerms,
    Metric,
    Objective,
)

__all__ = ["OBJECTIVES", "CoupledObjective", "LossTerms", "Metric", "Objective"]
