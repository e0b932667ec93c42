"""From verified groups to packed batches: who gets which sequence, and in what micro-batches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from rlvr.types import (
    TOKEN_BATCH_AXES,
    CreditInputs,
    Group,
    Outcome,
    TokenBatch,
    cu_seqlens_of,
    ranges,
    samples_of,
)


def rank_batches(
    groups: Sequence[Group],
    advantages: np.ndarray,
    *,
    ranks: int,
    groups_per_mini_batch: int,
    cost: Callable[[TokenBatch], Float[Tensor, "S"]] | None = None,
    inputs: CreditInputs | None = None,
) -> list[TokenBatch]:
    """One packed batch per rank, each with its part of every mini-batch.

    A mini-batch is a run of consecutive groups. Its sequences are laid in a line and the line is
    cut into ``ranks`` pieces of equal cost, so at most ``ranks − 1`` groups are split, and no
    rank waits for another by more than one sequence.

    Args:
        groups: the rollout batch.
        advantages: A_i of every response, in sample order, [S].
        ranks: number of learner ranks.
        groups_per_mini_batch: groups of one optimizer step.
        cost: of every sequence, in any unit; by default its tokens.
        inputs: what the credit method prepared, in sample order.
    """
    batch = _packed(groups, advantages, groups_per_mini_batch, inputs or CreditInputs())
    costs = batch.sequence_length.double() if cost is None else cost(batch).double()
    owner = torch.zeros_like(batch.mini_batch)
    for number in torch.unique(batch.mini_batch):
        line = batch.mini_batch == number
        middle = costs[line].cumsum(0) - costs[line] / 2
        share = middle / costs[line].sum().clamp(min=1e-9)
        owner[line] = (share * ranks).long().clamp(max=ranks - 1)
    if (owner.diff() < 0).any():  # with one mini-batch they lie in the order of their ranks
        batch, _ = batch.select(torch.argsort(owner, stable=True))
    return _split(batch, torch.bincount(owner, minlength=ranks))


def micro_batches(
    batch: TokenBatch,
    sequences: Int[Tensor, "s"],
    cost: Float[Tensor, "S"],
    budget: int,
    least: int = 1,
) -> list[Int[Tensor, "_"]]:
    """``sequences`` cut into at least so many micro-batches of about equal cost, dearest first.

    None has more than ``budget`` tokens. A group stays together, so that its prompt is computed
    once; one that is larger than the budget is cut into parts that repeat the prompt, and a
    sequence larger than the budget gets a micro-batch of its own.
    """
    whole = batch.sequence_length[sequences].tolist()
    response = (batch.sequence_length - batch.prompt_length)[sequences].tolist()
    rows = zip(sequences.tolist(), batch.group_id[sequences].tolist(), whole, response, strict=True)
    parts: list[_Part] = []
    group = None
    for i, own, n, r in sorted(rows, key=lambda row: row[1]):
        if own != group or parts[-1].tokens + r > budget:
            parts.append(_Part())
            r, group = n, own
        parts[-1].add([i], r, float(cost[i]))
    parts.sort(key=lambda part: -part.cost)
    fewest = ceil(sum(min(part.tokens, budget) for part in parts) / budget)
    for count in range(max(least, fewest), len(parts) + 1):
        if full := _spread(parts, count, budget):
            return [torch.tensor(sorted(m.members)) for m in sorted(full, key=lambda m: -m.cost)]
    return [torch.tensor(part.members) for part in parts]


@dataclass
class _Part:
    """Sequences that go through the model together."""

    members: list[int] = field(default_factory=list)
    tokens: int = 0
    cost: float = 0.0

    def add(self, members: list[int], tokens: int, cost: float) -> None:
        self.members += members
        self.tokens += tokens
        self.cost += cost


def _spread(parts: Sequence[_Part], count: int, budget: int) -> list[_Part] | None:
    """``parts``, dearest first, each to the cheapest of ``count`` micro-batches with room."""
    full = [_Part() for _ in range(count)]
    for part in parts:
        room = [m for m in full if m.tokens + part.tokens <= budget or not m.members]
        if not room:
            return None
        min(room, key=lambda m: m.cost).add(part.members, part.tokens, part.cost)
    return full


def _packed(
    groups: Sequence[Group], advantages: np.ndarray, per_mini_batch: int, inputs: CreditInputs
) -> TokenBatch:
    """The whole rollout batch."""
    samples = samples_of(groups)
    verdicts, responses = [s.verdict for s in samples], [s.response for s in samples]
    group_id = torch.repeat_interleave(torch.tensor([len(g.samples) for g in groups]))
    arrays = [np.array(g.prompt.token_ids, np.int64) for g in groups]
    prompts = [arrays[g] for g in group_id.tolist()]
    prompt_length = torch.tensor([len(p) for p in prompts])
    response_length = torch.tensor([len(r.token_ids) for r in responses])
    after = [r.sequence for r in responses]
    length = prompt_length + torch.tensor([len(ids) for ids in after])
    cu_seqlens = cu_seqlens_of(length)
    begin = cu_seqlens[:-1].long() + prompt_length  # of the responses
    ids = [x for p, y in zip(prompts, after, strict=True) for x in (p, y)]
    return TokenBatch(
        input_ids=_flat(ids, np.int64),
        position_ids=ranges(torch.zeros_like(length), length),
        cu_seqlens=cu_seqlens,
        token_index=begin.repeat_interleave(response_length)
        + _flat([r.places for r in responses], np.int64),
        sequence_id=torch.repeat_interleave(response_length),
        logp_rollout=_flat([r.logp_rollout for r in responses], np.float32),
        policy_version=_flat([r.policy_version for r in responses], np.int64),
        prompt_length=prompt_length,
        reward=torch.tensor([v.reward for v in verdicts], dtype=torch.float32),
        advantage=torch.as_tensor(advantages, dtype=torch.float32),
        correct=torch.tensor([v.outcome is Outcome.CORRECT for v in verdicts]),
        truncated=torch.tensor([r.truncated for r in responses]),
        group_id=group_id,
        mini_batch=group_id // per_mini_batch,
        response_id=torch.arange(len(samples)),
        inputs=inputs,
    )


def _split(batch: TokenBatch, sizes: Int[Tensor, "ranks"]) -> list[TokenBatch]:
    """Consecutive sub-batches of so many sequences, which share no memory.

    The same as ``select`` of each, but a hundred ranks cost no more than one.
    """
    s = [0, *sizes.cumsum(0).tolist()]
    start = {
        "S": s,
        "T": batch.cu_seqlens[s].tolist(),
        "N": F.pad(batch.response_length.cumsum(0), (1, 0))[s].tolist(),
    }
    parts = []
    for k in range(len(sizes)):
        begin = {axis: at[k] for axis, at in start.items()}
        end = {axis: at[k + 1] for axis, at in start.items()}
        own: dict[str, Any] = {
            name: x[begin[axis] : end[axis]].clone()
            for name, axis in TOKEN_BATCH_AXES.items()
            if (x := getattr(batch, name)) is not None
        }
        own["cu_seqlens"] = batch.cu_seqlens[begin["S"] : end["S"] + 1] - begin["T"]
        own["token_index"] -= begin["T"]
        own["sequence_id"] -= begin["S"]
        sequences, n = (torch.arange(begin[axis], end[axis]) for axis in ("S", "N"))
        parts.append(replace(batch, **own, inputs=batch.inputs.select(sequences, n)))
    return parts


def _flat(parts: Sequence[Any], dtype: type) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(dtype))
