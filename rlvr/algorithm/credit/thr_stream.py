"""THR's scores from streamed hidden states: exact, and nothing is [tokens, vocabulary]."""

from collections.abc import Collection, Iterator

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlvr.algorithm.aggregation import at_least_float32
from rlvr.algorithm.credit.base import Features
from rlvr.algorithm.credit.groups import GroupedResponses
from rlvr.algorithm.credit.rounds import in_step, rounds
from rlvr.types import TokenBatch

_ERRORS = 1 << 26  # elements of a chunk of g


class StreamedScores:
    """thr_scores without [T, V] and without holding the hidden states.

    Groups are worked on in waves, as many at a time as their matrices M fit in memory; each
    wave streams the hidden states twice, for M and for s. The M of a group that is split over
    ranks is all-reduced; such groups come first, so that every rank meets them in one wave.
    """

    def __init__(
        self, batch: TokenBatch, features: Features, groups: GroupedResponses, memory_mib: int
    ) -> None:
        self.features = features
        self.groups = groups
        self.memory = memory_mib << 20
        self.target = batch.target
        self.taken: Bool[Tensor, "N"] = groups.both_kinds()
        self.token_group = torch.where(self.taken, groups.group[groups.response], -1)
        self.positive = groups.correct[groups.response]

    def thr(self) -> Float[Tensor, "N"]:
        """THR of every token; 0 where ``taken`` is False. Collective."""
        ranks, split = self.groups.ranks, self.groups.split.tolist()
        score = torch.zeros_like(at_least_float32(self.features.logp))
        with self.features.policy.head() as head:
            vocabulary = self._vocabulary(len(head))
            width, dtype = head.shape[1], at_least_float32(head[:0]).dtype
            split_first = sorted(vocabulary, key=lambda g: (not split[g], g))
            waves = rounds(split_first, lambda g, _: len(vocabulary[g]) * width * 4, self.memory)
            for wave in in_step(waves, ranks):
                m = {g: head.new_zeros(len(vocabulary[g]), width, dtype=dtype) for g in wave}
                for g, _, error, hidden in self._stream(head, vocabulary, m, positives_only=True):
                    m[g].addmm_(error.T, hidden)
                for g in wave:
                    if split[g]:
                        m[g] = ranks.all_reduce(m[g])
                for g, n, error, hidden in self._stream(head, vocabulary, m):
                    score[n] = ((error @ m[g]) * hidden).sum(1).to(score.dtype)
        return torch.where(self.positive, score, -score)

    def _vocabulary(self, size: int) -> dict[int, Int[Tensor, "v"]]:
        """V* of this rank's groups and of all split groups: sorted ids. Collective."""
        pairs = torch.unique((self.token_group * size + self.target)[self.taken])
        shared = self.groups.ranks.all_gather(pairs[self.groups.split[pairs // size]])
        pairs = torch.unique(torch.cat([pairs, shared]))
        numbers, counts = torch.unique_consecutive(pairs // size, return_counts=True)
        parts = (pairs % size).split(counts.tolist())
        return dict(zip(numbers.tolist(), parts, strict=True))

    def _stream(
        self,
        head: Float[Tensor, "V d"],
        vocabulary: dict[int, Int[Tensor, "v"]],
        wave: Collection[int],
        *,
        positives_only: bool = False,
    ) -> Iterator[tuple[int, Int[Tensor, "n"], Float[Tensor, "n v"], Float[Tensor, "n d"]]]:
        """(group, place on the N axis, g on V*, h) of the wave's tokens, some at a time."""
        for n, hidden in self.features.hidden():
            group = self.token_group[n]
            if positives_only:
                group = torch.where(self.positive[n], group, -1)
            for g in torch.unique(group).tolist():
                if g not in wave:
                    continue
                own = head[vocabulary[g]]
                for rows in torch.nonzero(group == g)[:, 0].split(max(_ERRORS // len(own), 1)):
                    h = hidden[rows]
                    error = self._error(h, own, vocabulary[g], n[rows])
                    yield g, n[rows], error, at_least_float32(h)

    def _error(
        self,
        hidden: Float[Tensor, "n d"],
        head: Float[Tensor, "v d"],
        vocabulary: Int[Tensor, "v"],
        n: Int[Tensor, "n"],
    ) -> Float[Tensor, "n v"]:
        """onehot(y) − p on V*, without renormalising.

        The logits are rounded as those of the scoring pass, in the head's own precision: against
        its normaliser any others would turn the error of a confident token into noise. For the
        sampled token 1 − p(y) is taken from its very log-probability.
        """
        logits = at_least_float32(hidden @ head.T) / self.features.temperature
        error = -(logits - self.features.log_normaliser[n].to(logits.dtype)[:, None]).exp()
        place = torch.searchsorted(vocabulary, self.target[n])
        rows = torch.arange(len(n), device=n.device)
        error[rows, place] = -torch.expm1(self.features.logp[n].to(logits.dtype))
        return error
