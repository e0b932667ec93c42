"""THR (2510.03669) and NTHR (2505.18830): a token's push on the group's correct responses.

With the prediction error g_t = onehot(y_t) − p_t and P the correct responses of the group,

    M = Σ_{j∈P} Σ_{t'} g_{j,t'} h_{j,t'}ᵀ,    s_{i,t} = g_{i,t}ᵀ M h_{i,t}

is, to first order, how much a step on token (i, t) raises the log-likelihood of the correct
responses through lm_head. g is restricted to V*, the tokens that occur in the group's responses,
so that M is [V*, d] and nothing of size [tokens, vocabulary] exists.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlvr.algorithm.aggregation import at_least_float32
from rlvr.algorithm.credit.base import CREDITS, Credit, Features, Needs, Ranks
from rlvr.algorithm.credit.diagnostics import coefficient_metrics
from rlvr.algorithm.credit.groups import GroupedResponses, grouped_responses
from rlvr.algorithm.credit.thr_stream import StreamedScores
from rlvr.registry import require, require_one_of
from rlvr.types import TokenBatch

PerToken = Float[Tensor, "T"]
TokenIds = Int[Tensor, "T"]  # any integers
TokenFlags = Bool[Tensor, "T"]
Weighed = tuple[PerToken, TokenFlags]

_ETA: dict[str, Callable[[Float[Tensor, "G"]], Float[Tensor, "G"]]] = {
    "distance": lambda q: 2 * (0.5 - q).abs(),
    "share": lambda q: q,
    "complement": lambda q: 1 - q,
    "zero": torch.zeros_like,
}


def thr_scores(
    hidden: Float[Tensor, "T d"],
    error: Float[Tensor, "T V"],
    correct: TokenFlags,
    group_id: TokenIds,
) -> PerToken:
    """THR of every token: +s in a correct response, −s in an incorrect one.

    ``hidden`` is h_t, which enters lm_head at the position that predicts y_t; ``error`` is
    g_t = onehot(y_t) − p_t, on the whole vocabulary or on V*.
    """
    hidden, error = at_least_float32(hidden), at_least_float32(error)
    score = torch.zeros_like(hidden[:, 0])
    for group in torch.unique(group_id):
        member = group_id == group
        positive = member & correct
        m = error[positive].T @ hidden[positive]
        score[member] = ((error[member] @ m) * hidden[member]).sum(1)
    return torch.where(correct, score, -score)


def thr_coefficients(
    thr: PerToken, sequence_id: TokenIds, correct: TokenFlags, group_id: TokenIds, **options: Any
) -> PerToken:
    """What ``Thr(**options)`` makes of scores, all tensors being per token.

    ``correct`` says whether the token's response is. Groups without a correct or without an
    incorrect response get 1.
    """
    groups = grouped_responses(sequence_id, correct, group_id)
    return Thr(**options).weigh(thr, groups, torch.ones_like(thr))[0]


def nthr_coefficients(
    thr: PerToken, sequence_id: TokenIds, correct: TokenFlags, group_id: TokenIds, **options: Any
) -> PerToken:
    """What ``Nthr(**options)`` makes of scores; arguments as of thr_coefficients."""
    groups = grouped_responses(sequence_id, correct, group_id)
    return Nthr(**options).weigh(thr, groups, torch.ones_like(thr))[0]


@dataclass
class _TokenRewards(ABC):
    """What THR and NTHR share: the scores, streamed."""

    beta: float | None = 1.0  # scale of the threshold; null: no threshold
    memory_mib: int = 2048  # of the matrices M that exist at a time

    needs = Needs.HIDDEN
    advantage_only = True

    def __post_init__(self) -> None:
        require(self.beta is None or self.beta >= 0, f"beta must not be negative: {self.beta}")
        require(self.memory_mib > 0, f"memory_mib must be positive, not {self.memory_mib}")

    @torch.no_grad()
    def assign(self, batch: TokenBatch, features: Features, ranks: Ranks) -> Credit:
        groups = GroupedResponses.of(batch, features, ranks)
        streamed = StreamedScores(batch, features, groups, self.memory_mib)
        coefficients, dominant = self.weigh(streamed.thr(), groups, batch.token_advantage)
        counts = torch.stack([dominant.sum(), streamed.taken.sum()])
        share, tokens = ranks.all_reduce(counts).tolist()
        metrics = coefficient_metrics(coefficients, batch.token_advantage, ranks)
        if tokens:
            metrics["dominant_share"] = share / tokens
        return Credit(coefficients, metrics)

    @abstractmethod
    def weigh(self, thr: PerToken, groups: GroupedResponses, advantage: PerToken) -> Weighed:
        """Coefficients, and which tokens the threshold picks. Collective."""

    def threshold(self, x: PerToken, groups: GroupedResponses) -> PerToken:
        """τ of every token; −∞ without a threshold. Collective."""
        if self.beta is None:
            return torch.full_like(x, -torch.inf)
        return self.beta * groups.threshold(x)


@CREDITS.register("thr")
@dataclass
class Thr(_TokenRewards):
    """1[|THR| > τ] · (1 + sign(THR) p), with τ = β · min over correct i of mean_t |s_{i,t}|."""

    p: float = 0.1  # > 0: exploitation, < 0: exploration, 0: dominant tokens only
    mask_small: bool = True  # tokens below the threshold get 0; else 1
    weight: str = "score"  # THR = ± s | advantage: ± s |A_i|

    def __post_init__(self) -> None:
        super().__post_init__()
        require(-1 <= self.p <= 1, f"p must be in [-1, 1], not {self.p}")
        require_one_of("weight", self.weight, ("score", "advantage"))

    def weigh(self, thr: PerToken, groups: GroupedResponses, advantage: PerToken) -> Weighed:
        if self.weight == "advantage":
            thr = thr * advantage.abs().to(thr.dtype)
        dominant = thr.abs() > self.threshold(thr.abs(), groups)
        weight = torch.where(dominant, 1 + self.p * thr.sign(), 0.0 if self.mask_small else 1.0)
        both = groups.both_kinds()
        return torch.where(both, weight, 1.0), both & dominant


@CREDITS.register("nthr")
@dataclass
class Nthr(_TokenRewards):
    """η where s > τ = β · min over correct i of mean_t s in an incorrect response, 1 elsewhere.

    q is the share of correct responses in the group. The NLL term of the method's paper is
    ``objective.nll_coefficient``.
    """

    eta: str = "distance"  # distance: 2|0.5 − q| | share: q | complement: 1 − q | zero
    positives_only: bool = False  # incorrect responses get 0, in groups with both kinds

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("eta", self.eta, tuple(_ETA))

    def weigh(self, thr: PerToken, groups: GroupedResponses, advantage: PerToken) -> Weighed:
        correct = groups.correct[groups.response]
        score = torch.where(correct, thr, -thr)
        both = groups.both_kinds()
        chosen = both & ~correct & (score > self.threshold(score, groups))
        right, wrong = groups.correct_and_incorrect()
        q = right.double() / (right + wrong).clamp(min=1)
        damped = _ETA[self.eta](q).to(thr.dtype)[groups.group][groups.response]
        weight = torch.where(chosen, damped, 1.0)
        if self.positives_only:
            weight = torch.where(both & ~correct, 0.0, weight)
        return weight, chosen
