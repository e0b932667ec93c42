"""Off-policy correction: w_t for tokens that an older or slightly different policy sampled.

The rollout engine's log-probabilities differ from the learner's, by kernels and precision and,
in asynchronous training, by policy version. w = exp(logp_old − logp_rollout) repairs that in
expectation; truncating or masking it keeps the variance bounded.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlvr.algorithm.aggregation import at_least_float32, segment_sum
from rlvr.algorithm.metrics import Max, Mean, Metric
from rlvr.algorithm.objectives.base import MAX_LOG_RATIO
from rlvr.registry import Registry, require, require_one_of
from rlvr.types import TokenBatch

PerToken = Float[Tensor, "N"]
Weights = tuple[PerToken | None, dict[str, Metric]]


@runtime_checkable
class Correction(Protocol):
    """Gives the importance weights that multiply the per-token terms of an objective."""

    def weights(self, logp_old: PerToken, logp_rollout: PerToken, batch: TokenBatch) -> Weights:
        """w_t (None: all 1) and the mismatch metrics."""


CORRECTIONS: Registry[Correction] = Registry("correction", __name__)


def importance_ratio(
    logp_old: PerToken, logp_rollout: PerToken, batch: TokenBatch, *, level: str = "token"
) -> PerToken:
    """π_old / π_rollout of each token, or of the whole response that the token belongs to."""
    log_ratio = at_least_float32(logp_old) - at_least_float32(logp_rollout)
    if level == "sequence":
        log_ratio = segment_sum(log_ratio, batch.sequence_id, batch.num_sequences)
        log_ratio = log_ratio[batch.sequence_id]
    return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def mismatch_metrics(
    logp_old: PerToken, logp_rollout: PerToken, batch: TokenBatch
) -> dict[str, Metric]:
    """Mean and maximum of the token ratio, and KL(rollout ‖ old) by the k3 estimator."""
    ratio = importance_ratio(logp_old, logp_rollout, batch)
    return {
        "mismatch/ratio": Mean.of(ratio),
        "mismatch/ratio_max": Max(ratio.max() if len(ratio) else 0.0),
        "mismatch/kl": Mean.of(ratio - 1 - ratio.log()),
    }


@CORRECTIONS.register("none")
@dataclass
class NoCorrection:
    """No weights; the mismatch is still measured."""

    def weights(self, logp_old: PerToken, logp_rollout: PerToken, batch: TokenBatch) -> Weights:
        return None, mismatch_metrics(logp_old, logp_rollout, batch)


@CORRECTIONS.register("tis")
@dataclass
class TruncatedImportance:
    """w = min(π_old / π_rollout, C)."""

    level: str = "token"  # token | sequence: ratio of a token, or of its whole response
    cap: float = 2.0  # C

    def __post_init__(self) -> None:
        require_one_of("level", self.level, ("token", "sequence"))
        require(self.cap >= 1, f"cap must be at least 1, not {self.cap}")

    def weights(self, logp_old: PerToken, logp_rollout: PerToken, batch: TokenBatch) -> Weights:
        ratio = importance_ratio(logp_old, logp_rollout, batch, level=self.level)
        weight, touched = self.bounded(ratio)
        metrics = mismatch_metrics(logp_old, logp_rollout, batch)
        return weight, metrics | {"mismatch/truncated": Mean.of(touched)}

    def bounded(self, ratio: PerToken) -> tuple[PerToken, Bool[Tensor, "N"]]:
        """The weights, and which tokens the bound changes."""
        return ratio.clamp(max=self.cap), ratio > self.cap


@CORRECTIONS.register("mask")
@dataclass
class MaskedImportance(TruncatedImportance):
    """w = π_old / π_rollout within [1/C, C], and 0 outside."""

    def bounded(self, ratio: PerToken) -> tuple[PerToken, Bool[Tensor, "N"]]:
        outside = (ratio > self.cap) | (ratio < 1 / self.cap)
        return torch.where(outside, 0.0, ratio), outside
