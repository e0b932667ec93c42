"""GRPO (2402.03300): clipped ratio, mean over a response's tokens, then over responses."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from rlvr.algorithm.aggregation import sequence_mean
from rlvr.algorithm.metrics import Mean, Metric
from rlvr.algorithm.objectives.base import (
    MAX_LOG_RATIO,
    OBJECTIVES,
    LossTerms,
    PerToken,
    PolicyGradient,
    clipped_surrogate,
)
from rlvr.registry import require
from rlvr.types import TokenBatch, Totals


@OBJECTIVES.register("grpo")
@dataclass
class Grpo(PolicyGradient):
    """−min(r A, clip(r, 1−ε, 1+ε) A) + β · KL(π ‖ π_ref)."""

    aggregate = staticmethod(sequence_mean)

    clip_low: float = 0.2  # ε below 1
    clip_high: float = 0.2  # ε above 1
    beta: float = 0.0  # weight of the KL to the reference policy; 0: no reference policy

    def __post_init__(self) -> None:
        require(0 < self.clip_low < 1, f"clip_low must be in (0, 1), not {self.clip_low}")
        require(self.clip_high > 0, f"clip_high must be positive, not {self.clip_high}")
        require(self.beta >= 0, f"beta must not be negative, not {self.beta}")
        self.needs_reference = self.beta > 0

    def token_loss(
        self, logp: PerToken, log_ratio: PerToken, advantage: PerToken, batch: TokenBatch
    ) -> tuple[PerToken, dict[str, Metric]]:
        """The clipped term; the KL is added in ``loss``, outside the importance weights."""
        return clipped_surrogate(log_ratio.exp(), advantage, self.clip_low, self.clip_high)

    def loss(
        self, logp: PerToken, batch: TokenBatch, coefficients: PerToken, totals: Totals
    ) -> LossTerms:
        terms = super().loss(logp, batch, coefficients, totals)
        if self.beta > 0:
            assert batch.logp_reference is not None, "beta > 0 needs logp_reference"
            kl = k3(logp.to(terms.loss.dtype), batch.logp_reference.to(terms.loss.dtype))
            terms.loss = terms.loss + self.beta * self.aggregate(kl, batch, totals)
            terms.metrics["policy/kl_reference"] = Mean.of(kl)
        return terms

    def active(self, batch: TokenBatch, coefficients: PerToken) -> Bool[Tensor, "s"]:
        """With a KL term every sequence has a gradient."""
        if self.beta > 0:
            return torch.ones_like(batch.advantage, dtype=torch.bool)
        return super().active(batch, coefficients)


def k3(logp: PerToken, logp_reference: PerToken) -> PerToken:
    """Schulman's k3 estimator of KL(π ‖ π_ref), per token: e^x − x − 1, x = log(π_ref / π)."""
    x = (logp_reference - logp).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return x.exp() - x - 1
