"""Random coefficients: what reweighting by itself does, without any credit."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from rlvr.algorithm.aggregation import at_least_float32
from rlvr.algorithm.credit.base import CREDITS, Credit, Features, Needs, Ranks
from rlvr.algorithm.credit.delta_solver import normalised
from rlvr.algorithm.credit.diagnostics import coefficient_metrics
from rlvr.algorithm.credit.noise import response_generators
from rlvr.registry import require
from rlvr.types import TokenBatch


@dataclass
class RandomConfig:
    """Options of ``credit=random``."""

    name: str = "random"
    lambda_range: list[float] = field(default_factory=lambda: [0.8, 1.2])
    seed: int = 0

    def __post_init__(self) -> None:
        """Check ranges."""
        require(
            len(self.lambda_range) == 2 and 0 <= self.lambda_range[0] <= self.lambda_range[1],
            f"lambda_range must be [low, high] with 0 <= low <= high, not {self.lambda_range}",
        )


@CREDITS.register("random", RandomConfig)
class Random:
    """λ uniform in [λ_min, λ_max], normalised as in DelTA: c = λ N/Z."""

    needs = Needs.NONE

    def __init__(self, config: RandomConfig) -> None:
        self.config = config

    def assign(self, batch: TokenBatch, features: Features, ranks: Ranks) -> Credit:
        """c_t, drawn per response: the same whatever the packing and the number of ranks."""
        low, high = self.config.lambda_range
        draws = [
            torch.rand(length, generator=generator, dtype=torch.float64)
            for length, generator in zip(
                batch.response_length.tolist(),
                response_generators(batch, self.config.seed, "cpu"),
                strict=True,
            )
        ]
        uniform = torch.cat([torch.zeros(0, dtype=torch.float64), *draws])
        coefficients = normalised(low + (high - low) * uniform, ranks).to(features.logp.device)
        metrics = coefficient_metrics(coefficients, batch.token_advantage, ranks)
        return Credit(coefficients.to(at_least_float32(features.logp).dtype), metrics)
