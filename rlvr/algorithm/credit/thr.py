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

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlvr.algorithm.aggregation import at_least_float32
from rlvr.algorithm.credit.base import CREDITS, Credit, Features, Needs, Ranks
from rlvr.algorithm.credit.diagnostics import coefficient_metrics
from rlvr.algorithm.credit.groups import GroupedResponses, group_index, grouped_responses
from rlvr.algorithm.credit.thr_stream import StreamedScores
from rlvr.registry import require, require_one_of
from rlvr.types import TokenBatch

_ETA: dict[str, Callable[[Float[Tensor, "G"]], Float[Tensor, "G"]]] = {
    "distance": lambda q: 2 * (0.5 - q).abs(),
    "share": lambda q: q,
    "complement": lambda q: 1 - q,
    "zero": torch.zeros_like,
}


def thr_scores(
    hidden: Float[Tensor, "T d"],
    error: Float[Tensor, "T V"],
    correct: Bool[Tensor, "T"],
    group_id: Int[Tensor, "T"],
) -> Float[Tensor, "T"]:
    """THR of every token: +s in a correct response, −s in an incorrect one.

    Args:
        hidden: h_t, which enters lm_head at the position that predicts y_t.
        error: g_t = onehot(y_t) − p_t, on the whole vocabulary or on V*.
        correct: whether the token's response is correct.
        group_id: any integers.
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
    thr: Float[Tensor, "T"],
    sequence_id: Int[Tensor, "T"],
    correct: Bool[Tensor, "T"],
    group_id: Int[Tensor, "T"],
    *,
    p: float = 0.1,
    beta: float | None = 1.0,
    mask_small: bool = True,
) -> Float[Tensor, "T"]:
    """1[|THR| > τ] · (1 + sign(THR) p), with τ = β · min over correct i of mean_t |s_{i,t}|.

    All tensors are per token. Groups without a correct or without an incorrect response get 1.

    Args:
        thr: see thr_scores.
        sequence_id: any integers, one a response.
        correct: whether the token's response is correct.
        group_id: any integers.
        p: > 0 favours exploitation, < 0 exploration, 0 keeps the dominant tokens as they are.
        beta: scale of the threshold; None: no threshold.
        mask_small: 0 for the tokens below the threshold; else 1.
    """
    groups = grouped_responses(sequence_id, correct, group_id)
    return _thr_weights(thr, groups, p=p, beta=beta, mask_small=mask_small)[0]


def nthr_coefficients(
    thr: Float[Tensor, "T"],
    sequence_id: Int[Tensor, "T"],
    correct: Bool[Tensor, "T"],
    group_id: Int[Tensor, "T"],
    *,
    beta: float | None = 1.0,
    eta: str = "distance",
    positives_only: bool = False,
) -> Float[Tensor, "T"]:
    """η where s > τ in an incorrect response, 1 for all other tokens.

    q is the share of correct responses in the group, τ = β · min over correct i of mean_t s.
    Arguments as in thr_coefficients, and

    Args:
        eta: ``distance``: η = 2|0.5 − q|; the ablations ``share``: q, ``complement``: 1 − q, and
            ``zero``.
        positives_only: 0 for all tokens of incorrect responses in groups with both kinds.
    """
    groups = grouped_responses(sequence_id, correct, group_id)
    return _nthr_weights(thr, groups, beta=beta, eta=eta, positives_only=positives_only)[0]


def _thr_weights(
    thr: Float[Tensor, "T"],
    groups: GroupedResponses,
    *,
    p: float,
    beta: float | None,
    mask_small: bool,
) -> tuple[Float[Tensor, "T"], Bool[Tensor, "T"]]:
    """Coefficients, and which tokens are dominant. Collective."""
    dominant = thr.abs() > _threshold(thr.abs(), groups, beta)
    weight = torch.where(dominant, 1 + p * thr.sign(), 0.0 if mask_small else 1.0)
    both = groups.both_kinds()
    return torch.where(both, weight, 1.0), both & dominant


def _nthr_weights(
    thr: Float[Tensor, "T"],
    groups: GroupedResponses,
    *,
    beta: float | None,
    eta: str,
    positives_only: bool,
) -> tuple[Float[Tensor, "T"], Bool[Tensor, "T"]]:
    """Coefficients, and which tokens are damped. Collective."""
    correct = groups.correct[groups.response]
    score = torch.where(correct, thr, -thr)
    both = groups.both_kinds()
    chosen = both & ~correct & (score > _threshold(score, groups, beta))
    right, wrong = groups.correct_and_incorrect()
    q = right.double() / (right + wrong).clamp(min=1)
    damped = _ETA[eta](q).to(thr.dtype)[groups.group][groups.response]
    weight = torch.where(chosen, damped, 1.0)
    if positives_only:
        weight = torch.where(both & ~correct, 0.0, weight)
    return weight, chosen


def _threshold(
    x: Float[Tensor, "T"], groups: GroupedResponses, beta: float | None
) -> Float[Tensor, "T"]:
    """τ of every token; −∞ without a threshold. Collective."""
    return torch.full_like(x, -torch.inf) if beta is None else beta * groups.threshold(x)


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
        index = group_index(batch.group_id, ranks)
        scored = torch.zeros_like(batch.correct)
        scored[batch.sequence_id[features.scored]] = True
        groups = GroupedResponses(
            batch.sequence_id, batch.correct, index.of_sequence, scored, index.count, ranks
        )
        streamed = StreamedScores(batch, features, groups, index.split, self.memory_mib)
        coefficients, dominant = self.weigh(streamed.thr(), groups, batch)
        counts = torch.stack([dominant.sum(), streamed.taken.sum()])
        share, tokens = ranks.all_reduce(counts).tolist()
        metrics = coefficient_metrics(coefficients, batch.token_advantage, ranks)
        if tokens:
            metrics["dominant_share"] = share / tokens
        return Credit(coefficients, metrics)

    @abstractmethod
    def weigh(
        self, thr: Float[Tensor, "N"], groups: GroupedResponses, batch: TokenBatch
    ) -> tuple[Float[Tensor, "N"], Bool[Tensor, "N"]]:
        """Coefficients, and which tokens the threshold picks."""


@CREDITS.register("thr")
@dataclass
class Thr(_TokenRewards):
    """See thr_coefficients."""

    p: float = 0.1  # > 0: exploitation, < 0: exploration, 0: dominant tokens only
    mask_small: bool = True  # tokens below the threshold get 0; else 1
    weight: str = "score"  # THR = ± s | advantage: ± s |A_i|

    def __post_init__(self) -> None:
        super().__post_init__()
        require(-1 <= self.p <= 1, f"p must be in [-1, 1], not {self.p}")
        require_one_of("weight", self.weight, ("score", "advantage"))

    def weigh(
        self, thr: Float[Tensor, "N"], groups: GroupedResponses, batch: TokenBatch
    ) -> tuple[Float[Tensor, "N"], Bool[Tensor, "N"]]:
        if self.weight == "advantage":
            thr = thr * batch.token_advantage.abs().to(thr.dtype)
        return _thr_weights(thr, groups, p=self.p, beta=self.beta, mask_small=self.mask_small)


@CREDITS.register("nthr")
@dataclass
class Nthr(_TokenRewards):
    """See nthr_coefficients. Its NLL term is ``objective.nll_coefficient``."""

    eta: str = "distance"  # distance: 2|0.5 − q| | share: q | complement: 1 − q | zero
    positives_only: bool = False  # incorrect responses get 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("eta", self.eta, tuple(_ETA))

    def weigh(
        self, thr: Float[Tensor, "N"], groups: GroupedResponses, batch: TokenBatch
    ) -> tuple[Float[Tensor, "N"], Bool[Tensor, "N"]]:
        return _nthr_weights(
            thr, groups, beta=self.beta, eta=self.eta, positives_only=self.positives_only
        )
