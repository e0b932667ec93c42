"""What an objective is, and what the advantage-based ones have in common.

An objective sees one micro-batch: log-probabilities on the N axis, the micro-batch itself
(``logp_old`` filled), token coefficients c_t from credit assignment, and the denominators of
the whole mini-batch. It returns this micro-batch's share of the loss.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlvr.algorithm.aggregation import AGGREGATIONS, at_least_float32, segment_max
from rlvr.algorithm.credit.base import Ranks
from rlvr.algorithm.metrics import Mean, Metric
from rlvr.registry import Registry, require, require_one_of
from rlvr.types import TokenBatch, Totals

PerToken = Float[Tensor, "n"]  # response tokens of a micro-batch
Selected = Bool[Tensor, "n"]  # of these tokens
PerSequence = Float[Tensor, "s"]  # its sequences
PerResponse = Float[Tensor, "S"]  # responses of a mini-batch
GroupIds = Int[Tensor, "S"]
Scalar = Float[Tensor, ""]
Term = tuple[PerToken, dict[str, Metric]]  # to be minimised, and the method's own metrics

# exp() beyond this is a policy that has left its data; the bound only keeps inf · 0 out.
MAX_LOG_RATIO = 20.0


@dataclass
class LossTerms:
    """This micro-batch's share of the loss, and what to report about it."""

    loss: Scalar
    metrics: dict[str, Metric]


@runtime_checkable
class Objective(Protocol):
    """A policy loss."""

    needs_reference: bool
    """``batch.logp_reference`` must be there (KL to a reference policy)."""
    uses_advantage: bool
    """The loss reads ``batch.advantage``; REAL reads the rewards instead."""
    allows_signed: bool
    """Its formula holds for A_t = A_i · c_t with c_t < 0: the sign that counts is that of A_t."""
    coupled: bool
    """The responses of a group enter together: see CoupledObjective."""

    def loss(
        self, logp: PerToken, batch: TokenBatch, coefficients: PerToken, totals: Totals
    ) -> LossTerms:
        """This micro-batch's share of the loss, differentiable in ``logp``."""

    def active(self, batch: TokenBatch, coefficients: PerToken) -> Bool[Tensor, "s"]:
        """Sequences whose gradient is not identically zero; the others need no backward."""


@runtime_checkable
class CoupledObjective(Objective, Protocol):
    """An objective L(s̄_1 … s̄_S) whose gradient couples all responses of a group.

    It stays exact under micro-batches in two steps: the scores of the whole mini-batch first,
    without a gradient; then ``loss`` is the surrogate Σ_i ``batch.response_weight_i`` · s̄_i,
    whose gradient is that of L. At score 0 (the first mini-batch, ratio 1, where no pass is
    needed) the weights are non-zero exactly for the responses that take part at all.
    """

    def mean_log_ratio(
        self, logp: PerToken, batch: TokenBatch, coefficients: PerToken
    ) -> PerSequence:
        """s̄_i of every sequence of the micro-batch."""

    def response_weights(
        self, score: PerResponse, reward: PerResponse, group_id: GroupIds, totals: Totals
    ) -> PerResponse:
        """∂L/∂s̄_i over all responses of the mini-batch, denominators included."""

    def value(
        self, score: PerResponse, reward: PerResponse, group_id: GroupIds, totals: Totals
    ) -> Scalar:
        """L itself, over all responses of the mini-batch, for the metrics."""


@runtime_checkable
class SelectingObjective(Objective, Protocol):
    """An objective that treats some tokens in another way, chosen from a whole mini-batch."""

    def selected(
        self, logp: PerToken, batch: TokenBatch, coefficients: PerToken, ranks: Ranks
    ) -> Selected:
        """Which of this rank's tokens of a mini-batch; ``loss`` finds it as ``batch.selected``.

        ``logp`` is under the policy before the optimizer step, without a gradient; the batch has
        all of the rank's responses with one. Collective.
        """


OBJECTIVES: Registry[Objective] = Registry("objective", "rlvr.algorithm.objectives")


@dataclass
class PolicyGradient(ABC):
    """An objective that is a mean of per-token terms in r_t and A_t = A_i · c_t.

    What is added to it is averaged in the same way and outside of the off-policy weights:
    ``kl_coefficient`` · KL(π ‖ π_ref), and ``nll_coefficient`` · −logp on the correct responses.
    """

    aggregation: str = "token_mean"  # token_mean | sequence_mean | constant
    kl_coefficient: float = 0.0  # 0: no reference policy
    nll_coefficient: float = 0.0

    uses_advantage = True
    allows_signed = True  # the sign of A_t says which side is clipped
    coupled = False

    def __post_init__(self) -> None:
        require_one_of("aggregation", self.aggregation, tuple(AGGREGATIONS))
        for key in ("kl_coefficient", "nll_coefficient"):
            require(getattr(self, key) >= 0, f"{key} must not be negative: {getattr(self, key)}")

    @property
    def needs_reference(self) -> bool:
        return self.kl_coefficient > 0

    @abstractmethod
    def token_loss(
        self, logp: PerToken, log_ratio: PerToken, advantage: PerToken, batch: TokenBatch
    ) -> Term:
        """The term of every token."""

    def loss(
        self, logp: PerToken, batch: TokenBatch, coefficients: PerToken, totals: Totals
    ) -> LossTerms:
        assert batch.logp_old is not None, "the scoring pass fills logp_old before an update"
        logp = at_least_float32(logp)
        difference = logp - batch.logp_old.to(logp.dtype)
        log_ratio = difference.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        advantage = (batch.token_advantage * coefficients).to(logp.dtype)
        term, metrics = self.token_loss(logp, log_ratio, advantage, batch)
        if batch.importance is not None:
            term = term * batch.importance.to(term.dtype)
        if self.kl_coefficient:
            assert batch.logp_reference is not None, "the scoring pass fills logp_reference"
            kl = k3(logp, batch.logp_reference.to(logp.dtype))
            term = term + self.kl_coefficient * kl
            metrics["policy/kl_reference"] = Mean.of(kl)
        if self.nll_coefficient:
            correct = batch.correct[batch.sequence_id]
            term = term - self.nll_coefficient * torch.where(correct, logp, 0.0)

        with torch.no_grad():
            ratio = log_ratio.exp()
            metrics["policy/ratio"] = Mean.of(ratio)
            metrics["policy/kl_old"] = Mean.of(ratio - 1 - log_ratio)
        return LossTerms(AGGREGATIONS[self.aggregation](term, batch, totals), metrics)

    def active(self, batch: TokenBatch, coefficients: PerToken) -> Bool[Tensor, "s"]:
        """Sequences with a token whose weight A_i · c_t · w_t is not 0; with a KL term all.

        One that is NaN takes part: it spoils the loss, and so the update is skipped and told.
        """
        weight = batch.token_advantage * coefficients
        if batch.importance is not None:
            weight = weight * batch.importance
        size = segment_max(weight.abs(), batch.sequence_id, batch.num_sequences, empty=0.0)
        active = (size != 0) | (self.kl_coefficient > 0)
        return active | batch.correct if self.nll_coefficient else active


@dataclass
class Clipped(PolicyGradient):
    """−min(r A, clip(r, 1−ε_low, 1+ε_high) A)."""

    clip_low: float = 0.2  # ε_low
    clip_high: float = 0.2  # ε_high

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.clip_low <= 1, f"clip_low must be in (0, 1], not {self.clip_low}")
        require(self.clip_high > 0, f"clip_high must be positive, not {self.clip_high}")

    def token_loss(
        self, logp: PerToken, log_ratio: PerToken, advantage: PerToken, batch: TokenBatch
    ) -> Term:
        ratio, low, high = log_ratio.exp(), 1 - self.clip_low, 1 + self.clip_high
        term = -torch.minimum(ratio * advantage, ratio.clamp(low, high) * advantage)
        return term, {
            "policy/clip_high": Mean.of((ratio > high) & (advantage > 0)),
            "policy/clip_low": Mean.of((ratio < low) & (advantage < 0)),
        }


def k3(logp: PerToken, logp_reference: PerToken) -> PerToken:
    """Schulman's k3 estimator of KL(π ‖ π_ref), per token: e^x − x − 1, x = log(π_ref / π)."""
    x = (logp_reference - logp).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return x.exp() - x - 1
