"""Clip-Cov and KL-Cov (2505.22617): tokens of high covariance, which cost entropy, are held back.

Of a token of the mini-batch, with the means over its tokens,

    Cov_t = (log π(y_t) − mean log π) · (A_t − mean A)

under the policy as it is before the optimizer step: a policy becomes more certain where this is
large. The tokens are the N of all responses that receive a gradient. As released, the means and
the choice are of one micro-batch; here they are of the whole mini-batch over all ranks, whatever
the packing, which takes one more forward pass an optimizer step. Groups without spread, which the
source filters out, count nowhere.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rlvr.algorithm.aggregation import at_least_float32
from rlvr.algorithm.credit.base import Ranks
from rlvr.algorithm.credit.noise import response_uniform
from rlvr.algorithm.metrics import Mean
from rlvr.algorithm.objectives.base import (
    MAX_LOG_RATIO,
    OBJECTIVES,
    Clipped,
    PerToken,
    PolicyGradient,
    Selected,
    Term,
)
from rlvr.registry import require
from rlvr.types import TokenBatch


def covariances(logp: PerToken, advantage: PerToken, ranks: Ranks) -> Float[Tensor, "n"]:
    """Cov_t of this rank's tokens, float64. Collective."""
    x, a = logp.double(), advantage.double()
    sums = ranks.all_reduce(torch.stack([torch.ones_like(x).sum(), x.sum(), a.sum()]))
    mean_x, mean_a = sums[1:] / sums[0].clamp(min=1)
    return (x - mean_x) * (a - mean_a)


def largest(x: Float[Tensor, "n"], candidate: Selected, share: float, ranks: Ranks) -> Selected:
    """Of all N tokens max(⌊share · N⌋, 1), those largest in ``x`` among candidates. Collective.

    All of them, if there are fewer; those that tie with the last one are chosen too.
    """
    total = int(ranks.all_reduce(torch.tensor(len(x), device=x.device)))
    everywhere = ranks.all_gather(x[candidate])
    wanted = min(max(int(share * total), 1), len(everywhere))
    if not wanted:
        return candidate
    least = everywhere.kthvalue(len(everywhere) - wanted + 1).values
    return candidate & (x >= least)


@OBJECTIVES.register("kl_cov")
@dataclass
class KlCov(PolicyGradient):
    """−r A, and + β |log r| for the tokens of the highest covariance; nothing is clipped."""

    share: float = 0.002  # k, of the tokens; the source has 0.0002 for 32B
    penalty: float = 1.0  # β

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.share <= 1, f"share must be in (0, 1], not {self.share}")
        require(self.penalty >= 0, f"penalty must not be negative: {self.penalty}")

    def selected(
        self, logp: PerToken, batch: TokenBatch, coefficients: PerToken, ranks: Ranks
    ) -> Selected:
        """The ⌊kN⌋ tokens of the highest covariance, at least one."""
        advantage = batch.token_advantage * coefficients
        covariance = covariances(logp, advantage, ranks)
        return largest(covariance, torch.ones_like(logp, dtype=torch.bool), self.share, ranks)

    def token_loss(
        self, logp: PerToken, log_ratio: PerToken, advantage: PerToken, batch: TokenBatch
    ) -> Term:
        assert batch.selected is not None, "tokens are selected before the loss"
        term = -log_ratio.exp() * advantage
        term = torch.where(batch.selected, term + self.penalty * log_ratio.abs(), term)
        return term, {"policy/selected": Mean.of(batch.selected)}


@OBJECTIVES.register("clip_cov")
@dataclass
class ClipCov(Clipped):
    """−min(r A, clip(r, 1−ε_low, 1+ε_high) A), and 0 for some tokens of high covariance.

    They are ⌊rN⌋ (at least one), drawn uniformly from those that the clip leaves a gradient and
    whose covariance lies between ``low`` and ``high``; 0 for all of them if they are fewer.
    """

    clip_low: float = 1.0  # never clips, as released
    clip_high: float = 1.0
    share: float = 0.0002  # r, of the tokens
    low: float = 1.0  # ω_low
    high: float = 5.0  # ω_high
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.share <= 1, f"share must be in (0, 1], not {self.share}")
        require(self.low < self.high, f"low={self.low} must be below high={self.high}")

    def selected(
        self, logp: PerToken, batch: TokenBatch, coefficients: PerToken, ranks: Ranks
    ) -> Selected:
        """A draw of the response's own, the same whatever the packing and the ranks."""
        assert batch.logp_old is not None
        logp = at_least_float32(logp)
        advantage = (batch.token_advantage * coefficients).to(logp.dtype)
        covariance = covariances(logp, advantage, ranks)
        log_ratio = logp - batch.logp_old.to(logp.dtype)
        ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        clipped = ratio * advantage > ratio.clamp(1 - self.clip_low, 1 + self.clip_high) * advantage
        candidate = ~clipped & (covariance > self.low) & (covariance < self.high)
        uniform = response_uniform(batch, self.seed).to(logp.device)
        return largest(uniform, candidate, self.share, ranks)

    def token_loss(
        self, logp: PerToken, log_ratio: PerToken, advantage: PerToken, batch: TokenBatch
    ) -> Term:
        assert batch.selected is not None, "tokens are selected before the loss"
        term, metrics = super().token_loss(logp, log_ratio, advantage, batch)
        term = torch.where(batch.selected, 0.0, term)
        return term, metrics | {"policy/selected": Mean.of(batch.selected)}
