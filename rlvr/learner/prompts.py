"""A prompt is computed once for all the responses of its group that stand beside it."""

import torch
from jaxtyping import Int
from torch import Tensor

from rlvr.packing import Packing, cu_seqlens_of, ranges
from rlvr.types import TokenBatch


def shared_prompts(batch: TokenBatch) -> tuple[Packing, Int[Tensor, "N"]]:
    """What a forward pass over ``batch`` computes, and where each response token is predicted.

    The packing has the prompts of all groups first and then what follows them, each of which
    continues its prompt. A response's first token is predicted by the prompt's last one, every
    other by the token before it, sampled or observed.
    """
    begin, prompt = batch.cu_seqlens[:-1].long(), batch.prompt_length
    after = batch.sequence_length - prompt
    groups, group = torch.unique(batch.group_id, return_inverse=True)
    some = torch.empty_like(groups).scatter_(0, group, torch.arange(len(group)).to(group))
    length = torch.cat([prompt[some], after])
    index = ranges(torch.cat([begin[some], begin + prompt]), length)
    cu_seqlens = cu_seqlens_of(length)
    start, end = cu_seqlens[:-1].long(), cu_seqlens[1:].long()
    own = torch.stack([start, end], 1)[group]  # [start, end) of every response's prompt
    packing = Packing(
        batch.input_ids[index],
        batch.position_ids[index],
        cu_seqlens,
        prefix=torch.cat([torch.zeros_like(own[:1]).expand(len(groups), 2), own]),
    )
    sequence = batch.sequence_id
    place = batch.token_index - (begin + prompt)[sequence]
    before = start[len(groups) :][sequence] + place - 1
    return packing, torch.where(place == 0, own[sequence, 1] - 1, before)
