"""Random coefficients: what reweighting by itself does, without any credit."""

from dataclasses import dataclass, field

from rlvr.algorithm.aggregation import at_least_float32
from rlvr.algorithm.credit.base import CREDITS, Credit, Features, Needs, Ranks
from rlvr.algorithm.credit.delta_solver import normalised, require_range
from rlvr.algorithm.credit.diagnostics import coefficient_metrics
from rlvr.algorithm.credit.noise import response_uniform
from rlvr.types import TokenBatch


@CREDITS.register("random")
@dataclass
class Random:
    """λ uniform in [λ_min, λ_max], normalised as in DelTA: c = λ N/Z."""

    lambda_range: list[float] = field(default_factory=lambda: [0.8, 1.2])
    seed: int = 0

    needs = Needs.NONE

    def __post_init__(self) -> None:
        require_range("lambda_range", self.lambda_range)

    def assign(self, batch: TokenBatch, features: Features, ranks: Ranks) -> Credit:
        """c_t, drawn per response: the same whatever the packing and the number of ranks."""
        low, high = self.lambda_range
        uniform = response_uniform(batch, self.seed)
        coefficients = normalised(low + (high - low) * uniform, ranks).to(features.logp.device)
        metrics = coefficient_metrics(coefficients, batch.token_advantage, ranks)
        return Credit(coefficients.to(at_least_float32(features.logp).dtype), metrics)
