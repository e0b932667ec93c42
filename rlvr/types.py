"""The values that travel through the system, and nothing else.

Two axes recur in the tensor shapes:

* ``T`` – packed tokens: every token of every sequence, prompt and response, laid end to end;
* ``N`` – response tokens: the subset of ``T`` that the policy sampled. Everything that an
  algorithm sees (log-probabilities, coefficients, importance weights) lives on this axis, so
  that a prompt, what a tool replied, or a padding token cannot enter a mean by mistake.

``S`` counts sequences (one response each), ``G`` groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, get_args, get_type_hints

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from rlvr.packing import Packing as Packing
from rlvr.packing import cu_seqlens_of, ranges
from rlvr.task import Outcome as Outcome
from rlvr.task import Prompt as Prompt
from rlvr.task import Reply as Reply
from rlvr.task import Verdict as Verdict


@dataclass(frozen=True, slots=True)
class TokenChoices:
    """Some tokens of a next-token distribution, after temperature."""

    token_ids: np.ndarray  # int32 [K]
    logp: np.ndarray  # float32 [K]


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn of the policy in a conversation, and what its environment said to it."""

    end: int  # of the turn, among the response's sampled tokens
    observation: np.ndarray  # int32: the ids that follow in the sequence; none after the last turn
    said: str = ""  # by the environment, of which ``observation`` are the tokens
    reward: float = 0.0  # that the environment gave for the turn
    failed: bool = False  # whether there was no reply, which ``said`` tells


@dataclass(frozen=True, slots=True)
class Response:
    """What the rollout engine sampled for a prompt; the ids are never re-tokenised.

    In a conversation these are the tokens of all turns, and between two turns stands an
    observation, which was not sampled: n counts the sampled tokens alone.
    """

    token_ids: np.ndarray  # int32 [n]
    logp_rollout: np.ndarray  # float32 [n], after temperature, under the policy that sampled
    policy_version: np.ndarray  # int32 [n], the version that sampled each token
    finish_reason: str  # "stop" | "length" | "turns", of the last turn
    choices: TokenChoices | None = None  # at the first token, if the request asked
    turns: tuple[Turn, ...] = ()  # of a conversation, and of nothing else

    def __reduce__(self) -> tuple[Any, ...]:
        # A dataclass with slots travels slowly by itself, and thousands a second do.
        values = (self.token_ids, self.logp_rollout, self.policy_version, self.finish_reason)
        return Response, (*values, self.choices, self.turns)

    @property
    def truncated(self) -> bool:
        """Whether a limit (of length, of turns), not the policy, ended the response."""
        return self.finish_reason != "stop"

    @property
    def last_turn(self) -> int:
        """Where the last turn begins among the sampled tokens: what is verified."""
        return self.turns[-2].end if len(self.turns) > 1 else 0

    @property
    def sequence(self) -> np.ndarray:
        """int32 [n + m]: all ids that follow the prompt, observations in their places."""
        if not self.turns:
            return self.token_ids
        ends = [turn.end for turn in self.turns]
        sampled = np.split(self.token_ids, ends[:-1])
        parts = [
            x for own, t in zip(sampled, self.turns, strict=True) for x in (own, t.observation)
        ]
        return np.concatenate(parts)

    @property
    def places(self) -> np.ndarray:
        """int64 [n]: where each sampled token stands in ``sequence``."""
        before = np.zeros(len(self.token_ids), np.int64)  # observed tokens
        for turn in self.turns:
            before[turn.end :] += len(turn.observation)
        return before + np.arange(len(before))


@dataclass(frozen=True, slots=True)
class Sample:
    """A response as it was sampled, read and judged."""

    response: Response
    text: str  # of the last turn, decoded once, without special tokens
    verdict: Verdict  # with the reward that is trained on


@dataclass(frozen=True, slots=True)
class Group:
    """A prompt with all its samples, in the order of their seeds."""

    prompt: Prompt
    samples: Sequence[Sample]

    @property
    def rewards(self) -> np.ndarray:
        """float64 [G]."""
        return np.array([s.verdict.reward for s in self.samples], dtype=np.float64)

    @property
    def has_spread(self) -> bool:
        """A group whose rewards are all equal carries no learning signal."""
        return bool(np.ptp(self.rewards) > 0)


def samples_of(groups: Iterable[Group]) -> list[Sample]:
    """The samples of all groups in sample order: group by group."""
    return [sample for group in groups for sample in group.samples]


IN_USE = ""
"""The credit method that is trained with, among labels of others that are computed beside it."""


@dataclass(frozen=True, slots=True)
class TokenCoefficients:
    """c_t of every token of some responses, one response after the other."""

    response: np.ndarray  # int64 [S]: position of the response in the rollout batch
    length: np.ndarray  # int64 [S], in tokens
    coefficient: Mapping[str, np.ndarray]  # float32 [N], by the label of the method

    @classmethod
    def of(
        cls, batch: TokenBatch, coefficients: Mapping[str, Float[Tensor, "N"]]
    ) -> TokenCoefficients:
        response, length = batch.response_id.cpu().numpy(), batch.response_length.cpu().numpy()
        found = {label: c.float().cpu().numpy() for label, c in coefficients.items()}
        return cls(response, length, found)

    def by_response(self, label: str = IN_USE) -> Iterator[tuple[int, np.ndarray]]:
        """Each response with its own, by the method of that label."""
        every = self.coefficient[label]
        parts = np.split(every, self.length.cumsum()[:-1]) if len(self.length) else []
        return zip(self.response.tolist(), parts, strict=True)


@dataclass(frozen=True)
class CreditInputs:
    """What a credit method prepared on the driver, for itself on the ranks; names are its own.

    On the driver the tensors run over the whole rollout batch in sample order, on a rank over the
    sequences of the batch that they come with. Of several methods each has its part, by its label.
    """

    sequence: Mapping[str, Shaped[Tensor, "S ..."]] = field(default_factory=dict)
    token: Mapping[str, Shaped[Tensor, "N ..."]] = field(default_factory=dict)
    parts: Mapping[str, CreditInputs] = field(default_factory=dict)

    def of(self, label: str) -> CreditInputs:
        """The part of the method of that label, empty if it has prepared nothing."""
        return self.parts.get(label, CreditInputs())

    def select(self, sequences: Int[Tensor, "s"], n: Int[Tensor, "n"]) -> CreditInputs:
        """Those of ``sequences``, whose tokens are ``n`` on the N axis."""
        return CreditInputs(
            {name: x[sequences] for name, x in self.sequence.items()},
            {name: x[n] for name, x in self.token.items()},
            {label: own.select(sequences, n) for label, own in self.parts.items()},
        )

    def to(self, device: torch.device | str) -> CreditInputs:
        """The same inputs on ``device``."""
        return CreditInputs(
            {name: x.to(device) for name, x in self.sequence.items()},
            {name: x.to(device) for name, x in self.token.items()},
            {label: own.to(device) for label, own in self.parts.items()},
        )


@dataclass(frozen=True)
class TokenBatch(Packing):
    """Packed sequences of one learner rank: a prompt and its response each.

    ``token_index`` points at the sampled token y_t inside ``T``; the hidden state that *predicts*
    it stands one position earlier, at ``predict_index``. In a conversation tokens that the policy
    did not sample stand between its turns, and no index points there. ``advantage`` is the
    response's A_i. ``mini_batch`` numbers the optimizer step in which a sequence takes part.
    ``logp_old`` is None until the batch is loaded; NaN marks a token that the scoring pass left out
    because the update's own forward gives the same number (ratio 1).

    The first axis in a field's annotation is the axis along which ``select`` cuts it.
    """

    token_index: Int[Tensor, "N"]
    sequence_id: Int[Tensor, "N"]
    logp_rollout: Float[Tensor, "N"]
    policy_version: Int[Tensor, "N"]

    prompt_length: Int[Tensor, "S"]
    reward: Float[Tensor, "S"]
    advantage: Float[Tensor, "S"]
    correct: Bool[Tensor, "S"]
    truncated: Bool[Tensor, "S"]
    group_id: Int[Tensor, "S"]  # unique over the whole rollout batch, equal on every rank
    mini_batch: Int[Tensor, "S"]
    response_id: Int[Tensor, "S"]  # position of the response in the rollout batch

    logp_old: Float[Tensor, "N"] | None = None
    logp_reference: Float[Tensor, "N"] | None = None
    importance: Float[Tensor, "N"] | None = None  # off-policy correction w_t
    response_weight: Float[Tensor, "S"] | None = None  # of a group-coupled objective
    selected: Bool[Tensor, "N"] | None = None  # by an objective, in the mini-batch at work
    inputs: CreditInputs = field(default_factory=CreditInputs)

    @property
    def num_response_tokens(self) -> int:
        """N."""
        return len(self.token_index)

    @property
    def predict_index(self) -> Int[Tensor, "N"]:
        """Position in ``T`` whose hidden state predicts each response token."""
        return self.token_index - 1

    @property
    def target(self) -> Int[Tensor, "N"]:
        """y_t, the sampled token ids."""
        return self.input_ids[self.token_index]

    @cached_property
    def response_length(self) -> Int[Tensor, "S"]:
        """|y_i| of every sequence: the tokens that the policy sampled."""
        return torch.bincount(self.sequence_id, minlength=self.num_sequences)

    @property
    def response_start(self) -> Int[Tensor, "S"]:
        """Place of every response's first token on the N axis."""
        length = self.response_length
        return length.cumsum(0) - length

    @property
    def token_advantage(self) -> Float[Tensor, "N"]:
        """A_i of the response that each token belongs to."""
        return self.advantage[self.sequence_id]

    def select(self, sequences: Int[Tensor, "s"]) -> tuple[TokenBatch, Int[Tensor, "n"]]:
        """The sub-batch of ``sequences``, in that order, and its place on the N axis.

        The second value indexes this batch's N axis: ``x[n]`` carries any per-token tensor
        over to the sub-batch.
        """
        device = self.input_ids.device
        sequences = sequences.to(device)
        begin, length = self.cu_seqlens[:-1].long()[sequences], self.sequence_length[sequences]
        responses = self.response_length[sequences]
        n = ranges(self.response_start[sequences], responses)
        index = {"T": ranges(begin, length), "N": n, "S": sequences}
        values = {name: getattr(self, name) for name in TOKEN_BATCH_AXES}
        cut = {
            name: x[index[TOKEN_BATCH_AXES[name]]] for name, x in values.items() if x is not None
        }
        cu_seqlens = cu_seqlens_of(length)
        shift = (cu_seqlens[:-1] - begin).repeat_interleave(responses)
        changed: dict[str, Any] = cut | {
            "cu_seqlens": cu_seqlens,
            "sequence_id": torch.arange(len(sequences), device=device).repeat_interleave(responses),
            "token_index": self.token_index[n] + shift,
            "inputs": self.inputs.select(sequences, n),
        }
        return replace(self, **changed), n

    def to(self, device: torch.device | str) -> TokenBatch:
        """The same batch on ``device``."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v.to(device) for k, v in values.items() if v is not None})


def _first_axis(hint: Any) -> str | None:
    """T, N or S of an annotation such as ``Float[Tensor, "S 2"] | None``."""
    for kind in (hint, *get_args(hint)):
        if axis := getattr(kind, "dim_str", "").split(" ")[0]:
            return axis if axis in ("T", "N", "S") else None
    return None


TOKEN_BATCH_AXES = {
    k: axis for k, v in get_type_hints(TokenBatch).items() if (axis := _first_axis(v))
}


@dataclass(frozen=True, slots=True)
class Totals:
    """Denominators of one mini-batch, summed over all its micro-batches and all ranks.

    ``groups`` counts every group of the mini-batch, with spread or without.
    """

    tokens: int
    responses: int
    groups: int
    max_response_tokens: int  # the configured limit, Dr.GRPO's constant
