"""THR (2510.03669) and NTHR (2505.18830): a token's push on the group's correct responses.

With the prediction error g_t = onehot(y_t) − p_t and P the correct responses of the group,

    M = Σ_{j∈P} Σ_{t'} g_{j,t'} h_{j,t'}ᵀ,    s_{i,t} = g_{i,t}ᵀ M h_{i,t}

is, to first order, how much a step on token (i, t) raises the log-likelihood of the correct
responses through lm_head. g is restricted to V*, the tokens that occur in the group's responses,
so that M is [V*, d] and nothing of size [tokens, vocabulary] exists.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlvr.algorithm.aggregation import at_least_float32, segment_mean, segment_min
from rlvr.algorithm.credit.base import CREDITS, Credit, Features, Needs, Ranks, SoloRanks
from rlvr.algorithm.credit.diagnostics import coefficient_metrics
from rlvr.algorithm.credit.groups import group_index
from rlvr.algorithm.registry import require, require_one_of
from rlvr.types import TokenBatch

_ERRORS = 1 << 26  # elements of a chunk of g


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
    beta: float = 1.0,
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
        beta: scale of the threshold.
        mask_small: 0 for the tokens below the threshold; else 1.
    """
    groups = _grouped(sequence_id, correct, group_id)
    return _thr_weights(thr, groups, p=p, beta=beta, mask_small=mask_small)[0]


def nthr_coefficients(
    thr: Float[Tensor, "T"],
    sequence_id: Int[Tensor, "T"],
    correct: Bool[Tensor, "T"],
    group_id: Int[Tensor, "T"],
    *,
    beta: float = 1.0,
) -> Float[Tensor, "T"]:
    """η = 2|0.5 − q| where s > τ in an incorrect response, 1 for all other tokens.

    q is the share of correct responses in the group, τ = β · min over correct i of mean_t s.
    Arguments as in thr_coefficients.
    """
    return _nthr_weights(thr, _grouped(sequence_id, correct, group_id), beta=beta)[0]


@dataclass(frozen=True)
class _Grouped:
    """Responses and their groups, numbered from 0; reductions run over ``ranks``."""

    response: Int[Tensor, "T"]  # of every token
    correct: Bool[Tensor, "R"]
    group: Int[Tensor, "R"]
    member: Bool[Tensor, "R"]  # takes part: features were kept
    count: int
    ranks: Ranks

    def correct_and_incorrect(self) -> tuple[Int[Tensor, "G"], Int[Tensor, "G"]]:
        """Number of either kind in every group. Collective."""
        kinds = (self.correct & self.member, ~self.correct & self.member)
        counts = [torch.bincount(self.group[kind], minlength=self.count) for kind in kinds]
        correct, incorrect = self.ranks.all_reduce(torch.stack(counts))
        return correct, incorrect

    def both_kinds(self) -> Bool[Tensor, "T"]:
        """Tokens of the responses that take part in groups with both kinds. Collective."""
        correct, incorrect = self.correct_and_incorrect()
        both = (correct > 0) & (incorrect > 0)
        return (both[self.group] & self.member)[self.response]

    def threshold(self, x: Float[Tensor, "T"]) -> Float[Tensor, "T"]:
        """min over the group's correct responses of mean_t x. Collective."""
        mean = segment_mean(x, self.response, len(self.group))
        mean = torch.where(self.correct & self.member, mean, torch.inf)
        lowest = self.ranks.all_reduce(segment_min(mean, self.group, self.count), "min")
        return lowest[self.group][self.response]


def _grouped(
    sequence_id: Int[Tensor, "T"], correct: Bool[Tensor, "T"], group_id: Int[Tensor, "T"]
) -> _Grouped:
    """From per-token tensors, as the pure functions take them."""
    ids, response = torch.unique(sequence_id, return_inverse=True)
    groups, token_group = torch.unique(group_id, return_inverse=True)
    kind = torch.zeros(len(ids), dtype=torch.bool, device=correct.device)
    kind[response] = correct
    group = torch.zeros(len(ids), dtype=torch.long, device=correct.device)
    group[response] = token_group
    return _Grouped(response, kind, group, torch.ones_like(kind), len(groups), SoloRanks())


def _thr_weights(
    thr: Float[Tensor, "T"], groups: _Grouped, *, p: float, beta: float, mask_small: bool
) -> tuple[Float[Tensor, "T"], Bool[Tensor, "T"]]:
    """Coefficients, and which tokens are dominant. Collective."""
    dominant = thr.abs() > beta * groups.threshold(thr.abs())
    weight = torch.where(dominant, 1 + p * thr.sign(), 0.0 if mask_small else 1.0)
    both = groups.both_kinds()
    return torch.where(both, weight, 1.0), both & dominant


def _nthr_weights(
    thr: Float[Tensor, "T"], groups: _Grouped, *, beta: float
) -> tuple[Float[Tensor, "T"], Bool[Tensor, "T"]]:
    """Coefficients, and which tokens are damped. Collective."""
    correct = groups.correct[groups.response]
    score = torch.where(correct, thr, -thr)
    chosen = groups.both_kinds() & ~correct & (score > beta * groups.threshold(score))
    right, wrong = groups.correct_and_incorrect()
    share = right.double() / (right + wrong).clamp(min=1)
    eta = (2 * (0.5 - share).abs()).to(thr.dtype)
    return torch.where(chosen, eta[groups.group][groups.response], 1.0), chosen


@dataclass
class ThrConfig:
    """Options of ``credit=thr``."""

    name: str = "thr"
    p: float = 0.1  # > 0: exploitation, < 0: exploration, 0: dominant tokens only
    beta: float = 1.0  # scale of the threshold; 0: every token is dominant
    mask_small: bool = True  # tokens below the threshold get 0; else 1
    weight: str = "score"  # THR = ± s | advantage: ± s |A_i|
    memory_mib: int = 2048  # of the matrices M that exist at a time

    def __post_init__(self) -> None:
        """Check ranges."""
        require(-1 <= self.p <= 1, f"p must be in [-1, 1], not {self.p}")
        require(self.beta >= 0, f"beta must not be negative: {self.beta}")
        require_one_of("weight", self.weight, ("score", "advantage"))
        require(self.memory_mib > 0, f"memory_mib must be positive, not {self.memory_mib}")


@dataclass
class NthrConfig:
    """Options of ``credit=nthr``."""

    name: str = "nthr"
    beta: float = 1.0  # scale of the threshold
    memory_mib: int = 2048  # of the matrices M that exist at a time

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.beta >= 0, f"beta must not be negative: {self.beta}")
        require(self.memory_mib > 0, f"memory_mib must be positive, not {self.memory_mib}")


class _TokenRewards(ABC):
    """What THR and NTHR share: the scores, streamed."""

    needs = Needs.HIDDEN
    advantage_only = True
    memory_mib: int

    @torch.no_grad()
    def assign(self, batch: TokenBatch, features: Features, ranks: Ranks) -> Credit:
        """c_t; 1 in groups that lack a correct or an incorrect response."""
        index = group_index(batch.group_id, ranks)
        scored = torch.zeros_like(batch.correct)
        scored[batch.sequence_id[features.scored]] = True
        groups = _Grouped(
            batch.sequence_id, batch.correct, index.of_sequence, scored, index.count, ranks
        )
        streamed = _StreamedScores(batch, features, groups, index.split, self.memory_mib)
        coefficients, dominant = self.weigh(streamed.thr(), groups, batch)
        counts = torch.stack([dominant.sum(), streamed.taken.sum()])
        share, tokens = ranks.all_reduce(counts).tolist()
        metrics = coefficient_metrics(coefficients, batch.token_advantage, ranks)
        if tokens:
            metrics["dominant_share"] = share / tokens
        return Credit(coefficients, metrics)

    @abstractmethod
    def weigh(
        self, thr: Float[Tensor, "N"], groups: _Grouped, batch: TokenBatch
    ) -> tuple[Float[Tensor, "N"], Bool[Tensor, "N"]]:
        """Coefficients, and which tokens the threshold picks."""


@CREDITS.register("thr", ThrConfig)
class Thr(_TokenRewards):
    """See thr_coefficients."""

    def __init__(self, config: ThrConfig) -> None:
        self.config = config
        self.memory_mib = config.memory_mib

    def weigh(
        self, thr: Float[Tensor, "N"], groups: _Grouped, batch: TokenBatch
    ) -> tuple[Float[Tensor, "N"], Bool[Tensor, "N"]]:
        """Coefficients, and the dominant tokens."""
        options = self.config
        if options.weight == "advantage":
            thr = thr * batch.token_advantage.abs().to(thr.dtype)
        return _thr_weights(
            thr, groups, p=options.p, beta=options.beta, mask_small=options.mask_small
        )


@CREDITS.register("nthr", NthrConfig)
class Nthr(_TokenRewards):
    """See nthr_coefficients."""

    def __init__(self, config: NthrConfig) -> None:
        self.beta = config.beta
        self.memory_mib = config.memory_mib

    def weigh(
        self, thr: Float[Tensor, "N"], groups: _Grouped, batch: TokenBatch
    ) -> tuple[Float[Tensor, "N"], Bool[Tensor, "N"]]:
        """Coefficients, and the damped tokens."""
        return _nthr_weights(thr, groups, beta=self.beta)


class _StreamedScores:
    """thr_scores without [T, V] and without holding the hidden states.

    Groups are worked on in waves, as many at a time as their matrices M fit in memory; each
    wave streams the hidden states twice, for M and for s. The M of a group that is split over
    ranks is all-reduced; such groups come first, so that every rank meets them in one wave.
    """

    def __init__(
        self,
        batch: TokenBatch,
        features: Features,
        groups: _Grouped,
        split: Bool[Tensor, "G"],
        memory_mib: int,
    ) -> None:
        self.features = features
        self.groups = groups
        self.split = split
        self.memory = memory_mib << 20
        self.target = batch.input_ids[batch.response_index]
        self.taken: Bool[Tensor, "N"] = groups.both_kinds()
        self.token_group = torch.where(self.taken, groups.group[groups.response], -1)
        self.positive = groups.correct[groups.response]

    def thr(self) -> Float[Tensor, "N"]:
        """THR of every token; 0 where ``taken`` is False. Collective."""
        ranks = self.groups.ranks
        score = torch.zeros_like(at_least_float32(self.features.logp))
        with self.features.policy.head() as head:
            vocabulary = self._vocabulary(len(head))
            waves = self._waves(vocabulary, head.shape[1])
            for k in range(int(ranks.all_reduce(torch.tensor(len(waves)), "max"))):
                wave = waves[k] if k < len(waves) else []
                m = {
                    g: torch.zeros(
                        (len(vocabulary[g]), head.shape[1]),
                        dtype=at_least_float32(head[:0]).dtype,
                        device=head.device,
                    )
                    for g in wave
                }
                for g, _, error, hidden in self._stream(head, vocabulary, m, positives_only=True):
                    m[g].addmm_(error.T, hidden)
                for g in wave:
                    if self.split[g]:
                        m[g] = ranks.all_reduce(m[g])
                for g, n, error, hidden in self._stream(head, vocabulary, m):
                    score[n] = ((error @ m[g]) * hidden).sum(1).to(score.dtype)
        return torch.where(self.positive, score, -score)

    def _vocabulary(self, size: int) -> dict[int, Int[Tensor, "v"]]:
        """V* of this rank's groups and of all split groups: sorted ids. Collective."""
        pairs = torch.unique((self.token_group * size + self.target)[self.taken])
        shared = self.groups.ranks.all_gather(pairs[self.split[pairs // size]])
        pairs = torch.unique(torch.cat([pairs, shared]))
        numbers, counts = torch.unique_consecutive(pairs // size, return_counts=True)
        parts = (pairs % size).split(counts.tolist())
        return dict(zip(numbers.tolist(), parts, strict=True))

    def _waves(self, vocabulary: dict[int, Int[Tensor, "v"]], width: int) -> list[list[int]]:
        """Groups whose matrices fit in memory together."""
        split_first = sorted(vocabulary, key=lambda g: (not self.split[g], g))
        waves: list[list[int]] = []
        room = 0
        for g in split_first:
            need = len(vocabulary[g]) * width * 4
            if need > room or not waves:
                waves.append([])
                room = self.memory
            waves[-1].append(g)
            room -= need
        return waves

    def _stream(
        self,
        head: Float[Tensor, "V d"],
        vocabulary: dict[int, Int[Tensor, "v"]],
        wave: Collection[int],
        *,
        positives_only: bool = False,
    ) -> Iterator[tuple[int, Int[Tensor, "n"], Float[Tensor, "n v"], Float[Tensor, "n d"]]]:
        """(group, place on the N axis, g on V*, h) of the wave's tokens, a portion at a time."""
        for n, hidden in self.features.hidden():
            group = self.token_group[n]
            if positives_only:
                group = torch.where(self.positive[n], group, -1)
            for g in torch.unique(group).tolist():
                if g not in wave:
                    continue
                own = head[vocabulary[g]]
                for rows in torch.nonzero(group == g)[:, 0].split(max(_ERRORS // len(own), 1)):
                    h = at_least_float32(hidden[rows])
                    yield g, n[rows], self._error(h, own, vocabulary[g], n[rows]), h

    def _error(
        self,
        hidden: Float[Tensor, "n d"],
        head: Float[Tensor, "v d"],
        vocabulary: Int[Tensor, "v"],
        n: Int[Tensor, "n"],
    ) -> Float[Tensor, "n v"]:
        """onehot(y) − p on V*, without renormalising."""
        logits = hidden @ at_least_float32(head).T / self.features.temperature
        error = -(logits - self.features.log_normaliser[n].to(logits.dtype)[:, None]).exp()
        place = torch.searchsorted(vocabulary, self.target[n])
        error[torch.arange(len(n), device=n.device), place] += 1
        return error
