"""What a mini-batch comes to over all ranks."""

import torch
from jaxtyping import Int
from torch import Tensor

from rlvr.learner.collectives import DistributedRanks
from rlvr.types import TokenBatch, Totals


def totals_of(
    batch: TokenBatch, members: Int[Tensor, "s"], ranks: DistributedRanks, max_response_tokens: int
) -> Totals:
    """Denominators of the mini-batch of which ``members`` are this rank's sequences."""
    own = torch.stack(
        [batch.response_length[members].sum(), torch.tensor(len(members)).to(members)]
    )
    tokens, responses = ranks.all_reduce(own).tolist()
    return Totals(
        tokens=int(tokens),
        responses=int(responses),
        groups=count_groups(batch, members, ranks),
        max_response_tokens=max_response_tokens,
    )


def count_groups(batch: TokenBatch, sequences: Int[Tensor, "s"], ranks: DistributedRanks) -> int:
    """Groups that have one of ``sequences``, on any rank."""
    return len(torch.unique(ranks.all_gather(batch.group_id[sequences])))
