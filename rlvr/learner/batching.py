"""From verified groups to packed batches: who gets which sequence, and in what micro-batches."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from rlvr.types import CreditInputs, Group, Outcome, TokenBatch, cu_seqlens_of, ranges, samples_of


def rank_batches(
    groups: Sequence[Group],
    advantages: np.ndarray,
    *,
    ranks: int,
    groups_per_mini_batch: int,
    inputs: CreditInputs | None = None,
) -> list[TokenBatch]:
    """One packed batch per rank, each with its part of every mini-batch.

    A mini-batch is a run of consecutive groups. Its sequences are laid in a line and the line is
    cut into ``ranks`` pieces of equal tokens, so at most ``ranks − 1`` groups are split, and no
    rank waits for another by more than one sequence.

    Args:
        groups: the rollout batch.
        advantages: A_i of every response, in sample order, [S].
        ranks: number of learner ranks.
        groups_per_mini_batch: groups of one optimizer step.
        inputs: what the credit method prepared, in sample order.
    """
    batch = _packed(groups, advantages, groups_per_mini_batch, inputs or CreditInputs())
    owner = torch.zeros_like(batch.mini_batch)
    for number in torch.unique(batch.mini_batch):
        line = batch.mini_batch == number
        length = batch.sequence_length[line]
        middle = length.cumsum(0) - length.double() / 2
        owner[line] = (middle * ranks / length.sum()).long().clamp(max=ranks - 1)
    return [batch.select(torch.nonzero(owner == rank)[:, 0])[0] for rank in range(ranks)]


def micro_batches(lengths: Int[Tensor, "S"], budget: int) -> list[Int[Tensor, "_"]]:
    """Sequences cut into micro-batches of at most ``budget`` tokens: first fit, longest first.

    A sequence longer than the budget gets a micro-batch of its own.
    """
    order = torch.argsort(lengths, descending=True, stable=True).tolist()
    members: list[list[int]] = []
    room: list[int] = []
    for i in order:
        n = int(lengths[i])
        for m, free in enumerate(room):
            if n <= free:
                members[m].append(i)
                room[m] -= n
                break
        else:
            members.append([i])
            room.append(budget - n)
    return [torch.tensor(sorted(m)) for m in members]


def _packed(
    groups: Sequence[Group], advantages: np.ndarray, per_mini_batch: int, inputs: CreditInputs
) -> TokenBatch:
    """The whole rollout batch."""
    samples = samples_of(groups)
    verdicts, responses = [s.verdict for s in samples], [s.response for s in samples]
    group_id = torch.repeat_interleave(torch.tensor([len(g.samples) for g in groups]))
    prompts = [groups[g].prompt.token_ids for g in group_id.tolist()]
    response_length = torch.tensor([len(r.token_ids) for r in responses])
    length = torch.tensor([len(p) for p in prompts]) + response_length
    cu_seqlens = cu_seqlens_of(length)
    ids = [x for p, r in zip(prompts, responses, strict=True) for x in (p, r.token_ids)]
    return TokenBatch(
        input_ids=_flat(ids, np.int64),
        position_ids=ranges(torch.zeros_like(length), length),
        cu_seqlens=cu_seqlens,
        token_index=ranges(cu_seqlens[1:] - response_length, response_length),
        sequence_id=torch.repeat_interleave(response_length),
        logp_rollout=_flat([r.logp_rollout for r in responses], np.float32),
        policy_version=_flat([r.policy_version for r in responses], np.int64),
        reward=torch.tensor([v.reward for v in verdicts], dtype=torch.float32),
        advantage=torch.as_tensor(advantages, dtype=torch.float32),
        correct=torch.tensor([v.outcome is Outcome.CORRECT for v in verdicts]),
        truncated=torch.tensor([r.truncated for r in responses]),
        group_id=group_id,
        mini_batch=group_id // per_mini_batch,
        response_id=torch.arange(len(samples)),
        inputs=inputs,
    )


def _flat(parts: Sequence[Any], dtype: type) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(dtype))
