"""Groups that may be spread over several ranks."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlvr.algorithm.aggregation import segment_max, segment_mean, segment_min
from rlvr.algorithm.credit.base import Ranks, SoloRanks
from rlvr.types import TokenBatch


@dataclass(frozen=True)
class GroupIndex:
    """All groups of the rollout batch, numbered 0..G−1 alike on every rank."""

    of_sequence: Int[Tensor, "S"]  # group number of every sequence of this rank
    split: Bool[Tensor, "G"]  # whether the group has sequences on more than one rank
    count: int


def group_index(group_id: Int[Tensor, "S"], ranks: Ranks) -> GroupIndex:
    """Number the groups. Collective."""
    everywhere = ranks.all_gather(torch.unique(group_id))
    ids, owners = torch.unique(everywhere, return_counts=True)
    return GroupIndex(torch.searchsorted(ids, group_id), owners > 1, len(ids))


def groups_with_spread(batch: TokenBatch, index: GroupIndex, ranks: Ranks) -> Bool[Tensor, "G"]:
    """Groups whose rewards are not all equal. Collective."""
    reward = batch.reward.double()
    top = ranks.all_reduce(segment_max(reward, index.of_sequence, index.count), "max")
    bottom = ranks.all_reduce(segment_min(reward, index.of_sequence, index.count), "min")
    return top > bottom


@dataclass(frozen=True)
class GroupedResponses:
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


def grouped_responses(
    sequence_id: Int[Tensor, "T"], correct: Bool[Tensor, "T"], group_id: Int[Tensor, "T"]
) -> GroupedResponses:
    """From per-token tensors with any integers as ids, on one rank."""
    ids, response = torch.unique(sequence_id, return_inverse=True)
    groups, token_group = torch.unique(group_id, return_inverse=True)
    kind = torch.zeros(len(ids), dtype=torch.bool, device=correct.device)
    kind[response] = correct
    group = torch.zeros(len(ids), dtype=torch.long, device=correct.device)
    group[response] = token_group
    return GroupedResponses(response, kind, group, torch.ones_like(kind), len(groups), SoloRanks())
