"""A prompt is computed once for all the responses of its group that stand beside it."""

import torch
from jaxtyping import Int
from torch import Tensor

from rlvr.packing import Packing, cu_seqlens_of, ranges
from rlvr.types import TokenBatch


def shared_prompts(batch: TokenBatch) -> tuple[Packing, Int[Tensor, "N"]]:
    """What a forward pass over ``batch`` computes, and where each response token is predicted.

    The packing has the prompts of all groups first and then the responses, each of which continues
    its prompt. A response's first token is predicted by the prompt's last one, every other by the
    token before it.
    """
    responses = batch.response_length
    begin, prompt = batch.cu_seqlens[:-1].long(), batch.sequence_length - responses
    groups, group = torch.unique(batch.group_id, return_inverse=True)
    some = torch.empty_like(groups).scatter_(0, group, torch.arange(len(group)).to(group))
    length = torch.cat([prompt[some], responses])
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
    place = ranges(torch.zeros_like(responses), responses)
    before = ranges(start[len(groups) :] - 1, responses)
    last = (own[:, 1] - 1).repeat_interleave(responses)
    return packing, torch.where(place == 0, last, before)
