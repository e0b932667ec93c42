"""Groups that may be spread over several ranks."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlvr.algorithm.aggregation import segment_max, segment_mean, segment_min
from rlvr.algorithm.credit.base import Features, Ranks, SoloRanks
from rlvr.types import TokenBatch


@dataclass(frozen=True)
class GroupedResponses:
    """A rank's responses and all groups of the rollout batch, numbered alike on every rank."""

    response: Int[Tensor, "T"]  # of every token
    correct: Bool[Tensor, "R"]
    group: Int[Tensor, "R"]  # 0..G−1
    member: Bool[Tensor, "R"]  # takes part: features were kept
    split: Bool[Tensor, "G"]  # whether the group has responses on more than one rank
    ranks: Ranks

    @classmethod
    def of(cls, batch: TokenBatch, features: Features, ranks: Ranks) -> "GroupedResponses":
        """Number the groups. Collective."""
        ids, owners = torch.unique(
            ranks.all_gather(torch.unique(batch.group_id)), return_counts=True
        )
        member = torch.zeros_like(batch.correct)
        member[batch.sequence_id[features.scored]] = True
        group = torch.searchsorted(ids, batch.group_id)
        return cls(batch.sequence_id, batch.correct, group, member, owners > 1, ranks)

    def with_spread(self, reward: Float[Tensor, "R"]) -> Bool[Tensor, "R"]:
        """Responses of groups whose rewards are not all equal. Collective."""
        reward, count = reward.double(), len(self.split)
        top = self.ranks.all_reduce(segment_max(reward, self.group, count), "max")
        bottom = self.ranks.all_reduce(segment_min(reward, self.group, count), "min")
        return (top > bottom)[self.group]

    def correct_and_incorrect(self) -> tuple[Int[Tensor, "G"], Int[Tensor, "G"]]:
        """Number of either kind in every group. Collective."""
        kinds = (self.correct & self.member, ~self.correct & self.member)
        counts = [torch.bincount(self.group[kind], minlength=len(self.split)) for kind in kinds]
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
        lowest = self.ranks.all_reduce(segment_min(mean, self.group, len(self.split)), "min")
        return lowest[self.group][self.response]


def grouped_responses(
    sequence_id: Int[Tensor, "T"], correct: Bool[Tensor, "T"], group_id: Int[Tensor, "T"]
) -> GroupedResponses:
    """From per-token tensors with any integers as ids, on one rank."""
    ids, response = torch.unique(sequence_id, return_inverse=True)
    groups, token_group = torch.unique(group_id, return_inverse=True)
    kind, group = correct.new_zeros(len(ids)), token_group.new_zeros(len(ids))
    kind[response], group[response] = correct, token_group
    split = kind.new_zeros(len(groups))
    return GroupedResponses(response, kind, group, torch.ones_like(kind), split, SoloRanks())
