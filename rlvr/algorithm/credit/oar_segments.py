"""A response as OAR sees it: ``before`` (prompt) + ``reasoning`` + ``answer``.

The answer is the response's own final one or, teacher-forced, the gold one; what follows it is
left out. Where it lies only the driver can tell, which has the texts: ``answer_inputs``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rlvr.algorithm.credit.base import Driver, Features, Ranks
from rlvr.algorithm.credit.groups import GroupedResponses
from rlvr.types import CreditInputs, Group, Packing, TokenBatch, samples_of

SPAN = "answer_span"  # int64 [S, 2]: [start, end) among the response's tokens; -1: no answer
GOLD = "reference_answer"  # int64 [S, L]: the gold answer's ids, padded with -1


@dataclass(frozen=True)
class Segments:
    """One response, cut after its answer."""

    sequence: int  # in the batch
    token_ids: Int[Tensor, "L"]
    places: Int[Tensor, "R"]  # of the reasoning's tokens, in token_ids
    answer: int  # tokens, the last of token_ids
    first: int  # of the reasoning, on the N axis

    @property
    def reasoning(self) -> int:
        """R."""
        return len(self.places)

    def blanked(self, t: int, pad: int) -> Int[Tensor, "L"]:
        """The tokens with the reasoning's ``t``-th replaced by ``pad``."""
        changed = self.token_ids.clone()
        changed[self.places[t]] = pad
        return changed


def answer_inputs(groups: Sequence[Group], driver: Driver, target: str) -> CreditInputs:
    """Where the answers lie, and for ``target`` ``reference`` the gold answers' tokens."""
    spans = [driver.answer_span(sample) for sample in samples_of(groups)]
    inputs = {SPAN: torch.tensor(spans, dtype=torch.long).reshape(-1, 2)}
    if target == "reference":
        gold = [torch.tensor(driver.tokenize(g.prompt.answer)) for g in groups for _ in g.samples]
        inputs[GOLD] = torch.nn.utils.rnn.pad_sequence(gold, batch_first=True, padding_value=-1)
    return CreditInputs(inputs)


def segments(batch: TokenBatch, features: Features, ranks: Ranks, target: str) -> list[Segments]:
    """The responses of this rank that receive weights. Collective.

    Raises ValueError if the batch lacks what ``answer_inputs`` gives.
    """
    groups = GroupedResponses.of(batch, features, ranks)
    wanted = groups.with_spread(batch.reward) & groups.member
    ids = batch.input_ids.split(batch.sequence_length.tolist())
    places = batch.token_index - batch.cu_seqlens[:-1].long()[batch.sequence_id]
    own = places.split(batch.response_length.tolist())
    return _cut(ids, own, wanted, batch.inputs, target)


def planned_segments(groups: Sequence[Group], inputs: CreditInputs, target: str) -> list[Segments]:
    """``segments`` of a whole rollout batch, as the driver holds it, its responses numbered in
    sample order: these and perhaps some that turn out to need no weights.
    """
    responses = [s.response for s in samples_of(groups)]
    prompts = [g.prompt.token_ids for g in groups for _ in g.samples]
    ids = [torch.tensor([*p, *y.sequence]) for p, y in zip(prompts, responses, strict=True)]
    places = [len(p) + torch.tensor(y.places) for p, y in zip(prompts, responses, strict=True)]
    spread = torch.tensor([g.has_spread for g in groups for _ in g.samples])
    return _cut(ids, places, spread, inputs, target)


def _cut(
    token_ids: Sequence[Int[Tensor, "_"]],
    places: Sequence[Int[Tensor, "_n"]],
    wanted: Bool[Tensor, "S"],
    inputs: CreditInputs,
    target: str,
) -> list[Segments]:
    """The wanted ones among responses that have both a reasoning and an answer."""
    needed = (SPAN,) if target == "own" else (SPAN, GOLD)
    if missing := [name for name in needed if name not in inputs.sequence]:
        raise ValueError(
            f"OAR with target '{target}' needs {', '.join(missing)}; see answer_inputs"
        )
    span, gold = inputs.sequence[SPAN], inputs.sequence.get(GOLD)
    first = [0, *accumulate(map(len, places))]
    found = []
    for i in torch.nonzero(wanted & (span[:, 0] > 0))[:, 0].tolist():
        begin, end = span[i].tolist()
        whole, at = token_ids[i], places[i]
        answer = whole[at[begin:end]]
        if gold is not None and target == "reference":
            answer = gold[i][gold[i] >= 0].to(whole.dtype)
        if len(answer):
            cut = torch.cat([whole[: at[begin]], answer])
            found.append(Segments(i, cut, at[:begin], len(answer), first[i]))
    return found


def with_variants(
    found: Sequence[Segments], variants: Sequence[tuple[int, int]], pad: int
) -> tuple[Packing, list[tuple[int, int | None]]]:
    """Responses, each followed by its variants, which continue it; which variant each is."""
    sequences: list[Tensor] = []
    members: list[tuple[int, int | None]] = []
    prefix: list[tuple[int, int]] = []
    end = begin = 0  # of T so far; of the response
    for k, t in variants:
        part = found[k]
        if not members or members[-1][0] != k:
            sequences.append(part.token_ids)
            members.append((k, None))
            prefix.append((end, end))
            begin, end = end, end + len(part.token_ids)
        at = int(part.places[t])
        sequences.append(part.blanked(t, pad)[at:])
        members.append((k, t))
        prefix.append((begin, begin + at))
        end += len(sequences[-1])
    return Packing.of(sequences, prefix), members
