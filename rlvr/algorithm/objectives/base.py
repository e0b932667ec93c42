"""What an objective is, and what the advantage-based ones have in common.

An objective sees one micro-batch: log-probabilities on the N axis, the micro-batch itself
(``logp_old`` filled), token coefficients c_t from credit assignment, and the denominators of
the whole mini-batch. It returns this micro-batch's share of the loss.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlvr.algorithm.aggregation import at_least_float32, segment_max
from rlvr.algorithm.registry import Registry
from rlvr.types import TokenBatch, Totals

# (sum, count): both are added over micro-batches and ranks, then divided.
Metric = tuple[Tensor, Tensor]

# exp() beyond this is a policy that has left its data; the bound only keeps inf · 0 out.
MAX_LOG_RATIO = 20.0


@dataclass
class LossTerms:
    """This micro-batch's share of the loss, and what to report about it."""

    loss: Float[Tensor, ""]
    metrics: dict[str, Metric]


@runtime_checkable
class Objective(Protocol):
    """A policy loss."""

    needs_reference: bool
    """``batch.logp_reference`` must be there (KL to a reference policy)."""
    uses_advantage: bool
    """The loss reads ``batch.advantage``; REAL reads the rewards instead."""
    coupled: bool
    """The responses of a group enter together: see CoupledObjective."""

    def loss(
        self,
        logp: Float[Tensor, "n"],
        batch: TokenBatch,
        coefficients: Float[Tensor, "n"],
        totals: Totals,
    ) -> LossTerms:
        """This micro-batch's share of the loss, differentiable in ``logp``."""
        ...

    def active(self, batch: TokenBatch, coefficients: Float[Tensor, "n"]) -> Bool[Tensor, "s"]:
        """Sequences whose gradient is not identically zero; the others need no backward."""
        ...


class CoupledObjective(Objective, Protocol):
    """An objective L(s̄_1 … s̄_S) whose gradient couples all responses of a group.

    It stays exact under micro-batches in two steps: the scores of the whole mini-batch first,
    without a gradient; then ``loss`` is the surrogate Σ_i ``batch.response_weight_i`` · s̄_i,
    whose gradient is that of L. At score 0 (the first mini-batch, ratio 1, where no pass is
    needed) the weights are non-zero exactly for the responses that take part at all.
    """

    def score(
        self, logp: Float[Tensor, "n"], batch: TokenBatch, coefficients: Float[Tensor, "n"]
    ) -> Float[Tensor, "s"]:
        """s̄_i of every sequence of the micro-batch."""
        ...

    def response_weights(
        self,
        score: Float[Tensor, "S"],
        reward: Float[Tensor, "S"],
        group_id: Int[Tensor, "S"],
        totals: Totals,
    ) -> Float[Tensor, "S"]:
        """∂L/∂s̄_i over all responses of the mini-batch, denominators included."""
        ...

    def value(
        self,
        score: Float[Tensor, "S"],
        reward: Float[Tensor, "S"],
        group_id: Int[Tensor, "S"],
        totals: Totals,
    ) -> Float[Tensor, ""]:
        """L itself, over all responses of the mini-batch, for the metrics."""
        ...


OBJECTIVES: Registry[Objective] = Registry("objective", "rlvr.algorithm.objectives")


class PolicyGradient(ABC):
    """An objective that is a mean of per-token terms in r_t and A_t = A_i · c_t."""

    needs_reference = False
    uses_advantage = True
    coupled = False

    @abstractmethod
    def token_loss(
        self,
        logp: Float[Tensor, "n"],
        log_ratio: Float[Tensor, "n"],
        advantage: Float[Tensor, "n"],
        batch: TokenBatch,
    ) -> tuple[Float[Tensor, "n"], dict[str, Metric]]:
        """The term to be minimised of every token, and the method's own metrics."""

    @abstractmethod
    def aggregate(
        self, x: Float[Tensor, "n"], batch: TokenBatch, totals: Totals
    ) -> Float[Tensor, ""]:
        """This micro-batch's share of the mean."""

    def loss(
        self,
        logp: Float[Tensor, "n"],
        batch: TokenBatch,
        coefficients: Float[Tensor, "n"],
        totals: Totals,
    ) -> LossTerms:
        """This micro-batch's share of the loss, at least in float32."""
        assert batch.logp_old is not None, "the scoring pass fills logp_old before an update"
        logp = at_least_float32(logp)
        difference = logp - batch.logp_old.to(logp.dtype)
        log_ratio = difference.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        advantage = (batch.token_advantage * coefficients).to(logp.dtype)
        term, metrics = self.token_loss(logp, log_ratio, advantage, batch)
        if batch.importance is not None:
            term = term * batch.importance.to(term.dtype)

        with torch.no_grad():
            ratio = log_ratio.exp()
            metrics["policy/ratio"] = token_metric(ratio)
            metrics["policy/kl_old"] = token_metric(ratio - 1 - log_ratio)
        return LossTerms(self.aggregate(term, batch, totals), metrics)

    def active(self, batch: TokenBatch, coefficients: Float[Tensor, "n"]) -> Bool[Tensor, "s"]:
        """Sequences with a token whose weight A_i · c_t · w_t is not 0."""
        weight = batch.token_advantage * coefficients
        if batch.importance is not None:
            weight = weight * batch.importance
        size = segment_max(weight.abs(), batch.sequence_id, batch.num_sequences, empty=0.0)
        return size > 0


def token_metric(x: Float[Tensor, "n"] | Bool[Tensor, "n"]) -> Metric:
    """A metric that is a mean over tokens."""
    x = x.detach()
    return x.sum(dtype=torch.float64), torch.tensor(x.numel(), dtype=torch.float64, device=x.device)


def clipped_surrogate(
    ratio: Float[Tensor, "n"], advantage: Float[Tensor, "n"], low: float, high: float
) -> tuple[Float[Tensor, "n"], dict[str, Metric]]:
    """−min(r A, clip(r, 1−low, 1+high) A), and the shares of tokens clipped on either side."""
    clipped = ratio.clamp(1 - low, 1 + high)
    term = -torch.minimum(ratio * advantage, clipped * advantage)
    return term, {
        "policy/clip_high": token_metric((ratio > 1 + high) & (advantage > 0)),
        "policy/clip_low": token_metric((ratio < 1 - low) & (advantage < 0)),
    }
