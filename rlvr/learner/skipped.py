"""Updates that are skipped because a number was not finite: how all ranks know, what is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rlvr.types import IN_USE, TokenBatch, TokenCoefficients


def told_by_gradient(loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """``loss``; one that is not finite gets a gradient that is not, which every rank will see.

    The ranks exchange gradients anyway, and whoever takes the step looks at their norm.
    """
    return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)


@dataclass(frozen=True)
class UpdateInputs:
    """What a rank's update was computed from, as far as the driver does not know it."""

    tokens: TokenCoefficients
    mini_batch: np.ndarray  # int64 [S]
    skipped: np.ndarray  # bool [S]: whether a step of this mini-batch was
    logp_old: np.ndarray  # float32 [N]; NaN also where no pass was needed

    @classmethod
    def of(
        cls, batch: TokenBatch, coefficients: Float[Tensor, "N"], skipped: Sequence[int]
    ) -> UpdateInputs:
        logp_old = batch.logp_old
        assert logp_old is not None
        mini_batch = batch.mini_batch.cpu().numpy()
        return cls(
            TokenCoefficients.of(batch, {IN_USE: coefficients}),
            mini_batch,
            np.isin(mini_batch, list(skipped)),
            logp_old.float().cpu().numpy(),
        )
