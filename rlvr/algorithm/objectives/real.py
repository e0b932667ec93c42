"""REAL (2602.05630): rewards as labels, the responses of a group classified against each other.

The loss couples all responses of a group. It stays exact under any packing because its
gradient with respect to a response's score is one number, computed from all scores first
(see CoupledObjective).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlvr.algorithm.aggregation import at_least_float32, segment_max, segment_mean, segment_sum
from rlvr.algorithm.metrics import Mean
from rlvr.algorithm.objectives.base import (
    OBJECTIVES,
    GroupIds,
    LossTerms,
    PerResponse,
    PerSequence,
    PerToken,
    Scalar,
)
from rlvr.registry import require
from rlvr.types import TokenBatch, Totals


def real_loss(
    score: PerResponse,
    label: Bool[Tensor, "S"],
    group_id: GroupIds,
    *,
    tau: float = 0.5,
    variant: str = "softmax",
) -> Scalar:
    """The loss over whole groups, differentiable in ``score``; 0 without a group of both labels.

    ``score`` is s̄_i, the mean of logp − logp_old over a response's tokens, ``label`` whether the
    response is a positive one. ``softmax`` (anchored at logit 0 on either side) and ``product``
    are the sum over the groups with both labels ÷ all groups, ``bce`` is the mean over the
    responses of the groups with both labels.
    """
    label = label.bool()
    group, groups = _renumber(group_id)
    positives = torch.bincount(group[label], minlength=groups)
    valid = ((positives > 0) & (positives < torch.bincount(group, minlength=groups)))[group]
    logit, label = at_least_float32(score)[valid] / tau, label[valid]
    group, count = _renumber(group[valid])

    if variant == "bce":
        total = F.binary_cross_entropy_with_logits(logit, label.to(logit.dtype), reduction="sum")
        return total / max(len(logit), 1)
    if variant not in ("softmax", "product"):
        raise ValueError(f"variant must be softmax, bce or product, not '{variant}'")
    anchor = variant == "softmax"  # over the negatives e^{s̄/τ}, over the positives e^{−s̄/τ}
    negative = _log_sum_exp(logit[~label], group[~label], count, anchor=anchor)
    positive = _log_sum_exp(-logit[label], group[label], count, anchor=anchor)
    total = negative.sum() + positive.sum() if anchor else F.softplus(negative + positive).sum()
    return total / max(groups, 1)


def _renumber(group_id: GroupIds) -> tuple[GroupIds, int]:
    ids, group = torch.unique(group_id, return_inverse=True)
    return group, len(ids)


def _log_sum_exp(
    x: PerToken, segment: Int[Tensor, "n"], count: int, *, anchor: bool
) -> Float[Tensor, "count"]:
    """log Σ e^x over each segment, with a further term e^0 if ``anchor``."""
    top = segment_max(x.detach(), segment, count, empty=0.0 if anchor else -torch.inf)
    total = segment_sum((x - top[segment]).exp(), segment, count)
    return top + (total + (-top).exp() if anchor else total).log()


@OBJECTIVES.register("real")
@dataclass
class Real:
    """log(1 + Σ_neg e^{s̄/τ}) + log(1 + Σ_pos e^{−s̄/τ}) per group.

    Token coefficients and off-policy weights act on the tokens inside s̄_i.
    """

    needs_reference = False
    uses_advantage = False
    allows_signed = False  # c_t weighs tokens within a mean
    coupled = True
    variant = "softmax"

    tau: float = 0.5
    positive_threshold: float | None = 1.0  # reward of a positive; null: the group's maximum

    def __post_init__(self) -> None:
        require(self.tau > 0, f"tau must be positive, not {self.tau}")

    def mean_log_ratio(
        self, logp: PerToken, batch: TokenBatch, coefficients: PerToken
    ) -> PerSequence:
        """s̄_i = mean_t c_t w_t (logp − logp_old)."""
        assert batch.logp_old is not None, "the scoring pass fills logp_old before an update"
        logp = at_least_float32(logp)
        term = (logp - batch.logp_old.to(logp.dtype)) * coefficients.to(logp.dtype)
        if batch.importance is not None:
            term = term * batch.importance.to(logp.dtype)
        return segment_mean(term, batch.sequence_id, batch.num_sequences)

    def label(self, reward: PerResponse, group_id: GroupIds) -> Bool[Tensor, "S"]:
        if self.positive_threshold is not None:
            return reward >= self.positive_threshold
        group, count = _renumber(group_id)
        return reward >= segment_max(reward, group, count)[group]

    def value(
        self, score: PerResponse, reward: PerResponse, group_id: GroupIds, totals: Totals
    ) -> Scalar:
        label = self.label(reward, group_id)
        return real_loss(score, label, group_id, tau=self.tau, variant=self.variant)

    def response_weights(
        self, score: PerResponse, reward: PerResponse, group_id: GroupIds, totals: Totals
    ) -> PerResponse:
        with torch.enable_grad():
            free = score.detach().double().requires_grad_()
            (weight,) = torch.autograd.grad(self.value(free, reward, group_id, totals), free)
        return weight.to(at_least_float32(score).dtype)

    def loss(
        self, logp: PerToken, batch: TokenBatch, coefficients: PerToken, totals: Totals
    ) -> LossTerms:
        """The surrogate Σ_i w_i s̄_i, whose gradient is that of the loss."""
        assert batch.response_weight is not None, "response_weights come before the loss"
        score = self.mean_log_ratio(logp, batch, coefficients)
        loss = (batch.response_weight.to(score.dtype) * score).sum()
        return LossTerms(loss, {"policy/score": Mean.of(score)})

    def active(self, batch: TokenBatch, coefficients: PerToken) -> Bool[Tensor, "s"]:
        """Sequences of non-zero weight; all of them while the weights are not known."""
        size = segment_max(coefficients.abs(), batch.sequence_id, batch.num_sequences, empty=0.0)
        if batch.response_weight is None:
            return size != 0
        return (size != 0) & (batch.response_weight != 0)


@OBJECTIVES.register("real_bce")
@dataclass
class RealBce(Real):
    """Binary cross-entropy with logits s̄/τ over the responses of groups with both labels."""

    variant = "bce"
    positive_threshold: float | None = None


@OBJECTIVES.register("real_product")
@dataclass
class RealProduct(Real):
    """softplus(lse_neg(s̄/τ) + lse_pos(−s̄/τ)) per group."""

    variant = "product"
