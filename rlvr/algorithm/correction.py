"""Off-policy correction: w_t for tokens that an older or slightly different policy sampled.

The rollout engine's log-probabilities differ from the learner's, by kernels and precision and,
in asynchronous training, by policy version. w = exp(logp_old − logp_rollout) repairs that in
expectation; truncating or masking it keeps the variance bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from rlvr.algorithm.aggregation import at_least_float32, segment_sum
from rlvr.algorithm.objectives.base import MAX_LOG_RATIO, Metric, token_metric
from rlvr.algorithm.registry import Registry, require, require_one_of
from rlvr.types import TokenBatch


@runtime_checkable
class Correction(Protocol):
    """Gives the importance weights that multiply the per-token terms of an objective."""

    def weights(
        self,
        logp_old: Float[Tensor, "N"],
        logp_rollout: Float[Tensor, "N"],
        batch: TokenBatch,
    ) -> tuple[Float[Tensor, "N"] | None, dict[str, Metric]]:
        """w_t (None: all 1) and the mismatch metrics.

        A metric whose name ends in ``_max`` is to be combined by maximum.
        """
        ...


CORRECTIONS: Registry[Correction] = Registry("correction", __name__)


def importance_ratio(
    logp_old: Float[Tensor, "N"],
    logp_rollout: Float[Tensor, "N"],
    batch: TokenBatch,
    *,
    level: str = "token",
) -> Float[Tensor, "N"]:
    """π_old / π_rollout of each token, or of the whole response that the token belongs to."""
    log_ratio = at_least_float32(logp_old) - at_least_float32(logp_rollout)
    if level == "sequence":
        log_ratio = segment_sum(log_ratio, batch.sequence_id, batch.num_sequences)
        log_ratio = log_ratio[batch.sequence_id]
    return log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def mismatch_metrics(
    logp_old: Float[Tensor, "N"], logp_rollout: Float[Tensor, "N"], batch: TokenBatch
) -> dict[str, Metric]:
    """Mean and maximum of the token ratio, and KL(rollout ‖ old) by the k3 estimator."""
    ratio = importance_ratio(logp_old, logp_rollout, batch)
    one = torch.ones((), dtype=torch.float64, device=ratio.device)
    largest = ratio.max().double() if len(ratio) else 0 * one
    return {
        "mismatch/ratio": token_metric(ratio),
        "mismatch/ratio_max": (largest, one),
        "mismatch/kl": token_metric(ratio - 1 - ratio.log()),
    }


@dataclass
class NoneConfig:
    """``correction=none`` has no options."""

    name: str = "none"


@CORRECTIONS.register("none", NoneConfig)
class NoCorrection:
    """No weights; the mismatch is still measured."""

    def __init__(self, config: NoneConfig) -> None:
        del config

    def weights(
        self,
        logp_old: Float[Tensor, "N"],
        logp_rollout: Float[Tensor, "N"],
        batch: TokenBatch,
    ) -> tuple[Float[Tensor, "N"] | None, dict[str, Metric]]:
        """None, and the mismatch metrics."""
        return None, mismatch_metrics(logp_old, logp_rollout, batch)


@dataclass
class TisConfig:
    """Options of ``correction=tis``."""

    name: str = "tis"
    level: str = "token"  # token | sequence: ratio of a token, or of its whole response
    cap: float = 2.0  # C

    def __post_init__(self) -> None:
        """Check ranges."""
        require_one_of("level", self.level, ("token", "sequence"))
        require(self.cap >= 1, f"cap must be at least 1, not {self.cap}")


@CORRECTIONS.register("tis", TisConfig)
class TruncatedImportance:
    """w = min(π_old / π_rollout, C)."""

    def __init__(self, config: TisConfig) -> None:
        self.level, self.cap = config.level, config.cap

    def weights(
        self,
        logp_old: Float[Tensor, "N"],
        logp_rollout: Float[Tensor, "N"],
        batch: TokenBatch,
    ) -> tuple[Float[Tensor, "N"] | None, dict[str, Metric]]:
        """Truncated weights, and the share that was truncated."""
        ratio = importance_ratio(logp_old, logp_rollout, batch, level=self.level)
        metrics = mismatch_metrics(logp_old, logp_rollout, batch)
        metrics["mismatch/truncated"] = token_metric(ratio > self.cap)
        return ratio.clamp(max=self.cap), metrics


@dataclass
class MaskConfig(TisConfig):
    """Options of ``correction=mask``."""

    name: str = "mask"


@CORRECTIONS.register("mask", MaskConfig)
class MaskedImportance:
    """w = π_old / π_rollout within [1/C, C], and 0 outside."""

    def __init__(self, config: MaskConfig) -> None:
        self.level, self.cap = config.level, config.cap

    def weights(
        self,
        logp_old: Float[Tensor, "N"],
        logp_rollout: Float[Tensor, "N"],
        batch: TokenBatch,
    ) -> tuple[Float[Tensor, "N"] | None, dict[str, Metric]]:
        """Masked weights, and the share that was masked."""
        ratio = importance_ratio(logp_old, logp_rollout, batch, level=self.level)
        outside = (ratio > self.cap) | (ratio < 1 / self.cap)
        metrics = mismatch_metrics(logp_old, logp_rollout, batch)
        metrics["mismatch/truncated"] = token_metric(outside)
        return torch.where(outside, 0.0, ratio), metrics
