"""Groups that may be spread over several ranks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rlvr.algorithm.aggregation import segment_max, segment_min
from rlvr.algorithm.credit.base import Ranks
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
