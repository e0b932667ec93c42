"""GRPO (2402.03300): clipped ratio, mean over a response's tokens, then over responses."""

from dataclasses import dataclass

from rlvr.algorithm.objectives.base import OBJECTIVES, Clipped


@OBJECTIVES.register("grpo")
@dataclass
class Grpo(Clipped):
    """−min(r A, clip(r, 1−ε, 1+ε) A)."""

    aggregation: str = "sequence_mean"
