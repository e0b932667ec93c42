"""From verified groups to packed batches: who gets which sequence, and in what portions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlvr.types import Answers, Group, Outcome, TokenBatch


def rank_batches(
    groups: Sequence[Group],
    advantages: np.ndarray,
    *,
    ranks: int,
    groups_per_mini_batch: int,
    answers: Answers | None = None,
    token_scores: Float[Tensor, "N"] | None = None,
) -> list[TokenBatch]:
    """One packed batch per rank, each with its part of every mini-batch.

    A mini-batch is a run of consecutive groups. Its sequences are laid in a line and the line is
    cut into ``ranks`` pieces of equal tokens, so at most ``ranks − 1`` groups are split, and no
    rank waits for another by more than one sequence.

    Args:
        groups: the rollout batch.
        advantages: A_i of every response, in the order of the groups' responses, [S].
        ranks: number of learner ranks.
        groups_per_mini_batch: groups of one optimizer step.
        answers: where the responses' answers lie, for credit methods that ask.
        token_scores: what the rollout engines said of all response tokens, for methods that ask.
    """
    rows: list[list[tuple[int, int, int]]] = [[] for _ in range(ranks)]  # (group, sample, response)
    first = np.cumsum([0] + [len(g.responses) for g in groups])
    for start in range(0, len(groups), groups_per_mini_batch):
        line = [
            (g, i, int(first[g]) + i)
            for g in range(start, min(start + groups_per_mini_batch, len(groups)))
            for i in range(len(groups[g].responses))
        ]
        cost = [
            len(groups[g].prompt.token_ids) + len(groups[g].responses[i].token_ids)
            for g, i, _ in line
        ]
        for rank, piece in enumerate(_cut(cost, ranks)):
            rows[rank] += line[piece]
    batches = [_pack(groups, advantages, r, groups_per_mini_batch) for r in rows]
    if answers is not None:
        batches = [
            replace(
                b,
                answer_span=torch.from_numpy(answers.span)[b.response_id],
                reference_answer=torch.from_numpy(answers.reference)[b.response_id],
            )
            for b in batches
        ]
    if token_scores is not None:
        parts = token_scores.split([len(r.token_ids) for g in groups for r in g.responses])
        batches = [
            replace(b, token_score=_flat([parts[k].numpy() for k in b.response_id], np.float32))
            for b in batches
        ]
    return batches


def micro_batches(lengths: Int[Tensor, "S"], budget: int) -> list[Int[Tensor, "_s"]]:
    """Portions of at most ``budget`` tokens: first fit, longest first.

    A sequence longer than the budget gets a portion of its own.
    """
    order = torch.argsort(lengths, descending=True, stable=True).tolist()
    portions: list[list[int]] = []
    room: list[int] = []
    for i in order:
        n = int(lengths[i])
        for p, free in enumerate(room):
            if n <= free:
                portions[p].append(i)
                room[p] -= n
                break
        else:
            portions.append([i])
            room.append(budget - n)
    return [torch.tensor(sorted(p)) for p in portions]


def _cut(cost: Sequence[int], pieces: int) -> list[slice]:
    """Cut a line of items into contiguous pieces of nearly equal cost."""
    middle = np.cumsum(cost) - np.asarray(cost) / 2
    owner = np.minimum((middle * pieces / max(sum(cost), 1)).astype(int), pieces - 1)
    edges = np.searchsorted(owner, np.arange(pieces + 1))
    return [slice(int(a), int(b)) for a, b in zip(edges[:-1], edges[1:], strict=True)]


def _pack(
    groups: Sequence[Group],
    advantages: np.ndarray,
    rows: Sequence[tuple[int, int, int]],
    groups_per_mini_batch: int,
) -> TokenBatch:
    ids: list[np.ndarray] = []
    index: list[np.ndarray] = []
    lengths: list[int] = []
    at = 0
    for g, i, _ in rows:
        prompt, response = groups[g].prompt.token_ids, groups[g].responses[i].token_ids
        ids += [np.asarray(prompt, dtype=np.int64), np.asarray(response, dtype=np.int64)]
        index.append(np.arange(at + len(prompt), at + len(prompt) + len(response)))
        lengths.append(len(prompt) + len(response))
        at += lengths[-1]
    responses = [groups[g].responses[i] for g, i, _ in rows]
    verdicts = [groups[g].verdicts[i] for g, i, _ in rows]
    positions = [np.arange(n) for n in lengths]
    return TokenBatch(
        input_ids=_flat(ids, np.int64),
        position_ids=_flat(positions, np.int64),
        cu_seqlens=torch.tensor(np.cumsum([0, *lengths]), dtype=torch.int32),
        response_index=_flat(index, np.int64),
        sequence_id=torch.repeat_interleave(
            torch.arange(len(rows)),
            torch.tensor([len(r.token_ids) for r in responses], dtype=torch.long),
        ),
        logp_rollout=_flat([r.logp_rollout for r in responses], np.float32),
        policy_version=_flat([r.policy_version for r in responses], np.int64),
        reward=torch.tensor([v.reward for v in verdicts], dtype=torch.float32),
        advantage=torch.tensor([float(advantages[k]) for _, _, k in rows], dtype=torch.float32),
        correct=torch.tensor([v.outcome is Outcome.CORRECT for v in verdicts], dtype=torch.bool),
        truncated=torch.tensor([r.truncated for r in responses], dtype=torch.bool),
        group_id=torch.tensor([g for g, _, _ in rows], dtype=torch.long),
        mini_batch=torch.tensor([g // groups_per_mini_batch for g, _, _ in rows], dtype=torch.long),
        response_id=torch.tensor([k for _, _, k in rows], dtype=torch.long),
    )


def _flat(parts: Sequence[np.ndarray], dtype: type) -> Tensor:
    return torch.from_numpy(np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype))
