"""From verified groups to packed batches: who gets which sequence, and in what micro-batches."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from rlvr.types import CreditInputs, Group, Outcome, Prompt, Sample, TokenBatch, cu_seqlens_of


@dataclass(frozen=True, slots=True)
class _Sequence:
    """A prompt and its response in the rollout batch."""

    prompt: Prompt
    sample: Sample
    advantage: float
    group_id: int
    mini_batch: int
    response_id: int

    def __len__(self) -> int:
        return len(self.prompt.token_ids) + len(self.sample.response.token_ids)


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
    samples = [(g, sample) for g, group in enumerate(groups) for sample in group.samples]
    sequences = [
        _Sequence(groups[g].prompt, sample, float(advantages[k]), g, g // groups_per_mini_batch, k)
        for k, (g, sample) in enumerate(samples)
    ]
    shares: list[list[_Sequence]] = [[] for _ in range(ranks)]
    for _, mini_batch in groupby(sequences, lambda s: s.mini_batch):
        line = list(mini_batch)
        for share, piece in zip(shares, _cut([len(s) for s in line], ranks), strict=True):
            share += line[piece]
    lengths = [len(sample.response.token_ids) for _, sample in samples]
    return [_pack(share, inputs or CreditInputs(), lengths) for share in shares]


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


def _cut(cost: Sequence[int], pieces: int) -> list[slice]:
    """Cut a line of items into contiguous pieces of nearly equal cost."""
    middle = np.cumsum(cost) - np.asarray(cost) / 2
    owner = np.minimum((middle * pieces / max(sum(cost), 1)).astype(int), pieces - 1)
    edges = np.searchsorted(owner, np.arange(pieces + 1))
    return [slice(int(a), int(b)) for a, b in zip(edges[:-1], edges[1:], strict=True)]


def _pack(
    sequences: Sequence[_Sequence], inputs: CreditInputs, response_lengths: Sequence[int]
) -> TokenBatch:
    """A rank's batch; ``inputs`` and ``response_lengths`` are those of the whole rollout batch."""
    responses = [s.sample.response for s in sequences]
    length = torch.tensor([len(s) for s in sequences], dtype=torch.long)
    response_length = torch.tensor([len(r.token_ids) for r in responses], dtype=torch.long)
    response_id = torch.tensor([s.response_id for s in sequences], dtype=torch.long)
    prompts = [s.prompt.token_ids for s in sequences]
    ids = [x for p, r in zip(prompts, responses, strict=True) for x in (p, r.token_ids)]
    tokens = [_flat([np.arange(n) for n in xs.tolist()]) for xs in (length, response_length)]
    start = cu_seqlens_of(torch.tensor(response_lengths))[:-1][response_id].long()
    sequence_id = torch.arange(len(sequences)).repeat_interleave(response_length)
    cu_seqlens = cu_seqlens_of(length)
    first = cu_seqlens[1:] - response_length  # of the response in T
    return TokenBatch(
        input_ids=_flat(ids),
        position_ids=tokens[0],
        cu_seqlens=cu_seqlens,
        token_index=first[sequence_id] + tokens[1],
        sequence_id=sequence_id,
        logp_rollout=_flat([r.logp_rollout for r in responses], np.float32),
        policy_version=_flat([r.policy_version for r in responses]),
        reward=torch.tensor([s.sample.verdict.reward for s in sequences], dtype=torch.float32),
        advantage=torch.tensor([s.advantage for s in sequences], dtype=torch.float32),
        correct=_bools(s.sample.verdict.outcome is Outcome.CORRECT for s in sequences),
        truncated=_bools(r.truncated for r in responses),
        group_id=torch.tensor([s.group_id for s in sequences], dtype=torch.long),
        mini_batch=torch.tensor([s.mini_batch for s in sequences], dtype=torch.long),
        response_id=response_id,
        inputs=inputs.select(response_id, start[sequence_id] + tokens[1]),
    )


def _flat(parts: Sequence[Any], dtype: type = np.int64) -> Tensor:
    return torch.from_numpy(np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype))


def _bools(values: Iterable[bool]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.bool)
