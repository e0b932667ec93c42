"""The values that travel through the system, and nothing else.

Two axes recur in the tensor shapes:

* ``T`` – packed tokens: every token of every sequence, prompt and response, laid end to end;
* ``N`` – response tokens: the subset of ``T`` that the policy sampled. Everything that an
  algorithm sees (log-probabilities, coefficients, importance weights) lives on this axis, so
  that a prompt or a padding token cannot enter a mean by mistake.

``S`` counts sequences (one response each), ``G`` groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlvr.task import Outcome as Outcome
from rlvr.task import Prompt as Prompt
from rlvr.task import Verdict as Verdict


@dataclass(frozen=True, slots=True)
class TokenChoices:
    """Some tokens of a next-token distribution, after temperature."""

    token_ids: np.ndarray  # int32 [K]
    logp: np.ndarray  # float32 [K]


@dataclass(frozen=True, slots=True)
class Response:
    """What the rollout engine sampled for a prompt; the ids are never re-tokenised."""

    token_ids: np.ndarray  # int32 [n]
    logp_rollout: np.ndarray  # float32 [n], after temperature, under the policy that sampled
    policy_version: np.ndarray  # int32 [n], the version that sampled each token
    finish_reason: str  # "stop" | "length"
    choices: TokenChoices | None = None  # at the first token, if the request asked

    @property
    def truncated(self) -> bool:
        """Whether the length limit, not the policy, ended the response."""
        return self.finish_reason == "length"


@dataclass(frozen=True, slots=True)
class Group:
    """A prompt with all its responses and their verdicts, in sample order."""

    prompt: Prompt
    responses: Sequence[Response]
    verdicts: Sequence[Verdict]

    @property
    def rewards(self) -> np.ndarray:
        """float64 [G]."""
        return np.array([v.reward for v in self.verdicts], dtype=np.float64)

    @property
    def has_spread(self) -> bool:
        """A group whose rewards are all equal carries no learning signal."""
        return bool(np.ptp(self.rewards) > 0)

    @property
    def tokens(self) -> int:
        """Packed tokens that the group costs the learner."""
        prompt = len(self.prompt.token_ids)
        return sum(prompt + len(r.token_ids) for r in self.responses)


@dataclass(frozen=True, slots=True)
class Answers:
    """Final answers of all responses of a rollout batch, as tokens."""

    span: np.ndarray  # int64 [S, 2]: [start, end) among the response's tokens; -1: none
    reference: np.ndarray  # int64 [S, L]: the gold answer's ids, padded with -1


@dataclass(frozen=True, slots=True)
class RankedTokens:
    """Some response tokens of a rollout batch, in descending order of their coefficients."""

    response: np.ndarray  # int64 [k]: position of the response in the rollout batch
    position: np.ndarray  # int64 [k]: among the response's tokens
    coefficient: np.ndarray  # float64 [k]


@dataclass(frozen=True)
class TokenBatch:
    """Packed sequences of one learner rank, without padding.

    ``response_index`` points at the sampled token y_t inside ``T``; the hidden state that
    *predicts* it stands one position earlier, at ``predict_index``. ``advantage`` is the
    response's A_i. ``mini_batch`` numbers the optimizer step in which a sequence takes part.
    ``logp_old`` is None until the scoring pass has filled it; NaN marks a token that the pass
    left out because the update's own forward gives the same number (ratio 1).
    """

    input_ids: Int[Tensor, "T"]
    position_ids: Int[Tensor, "T"]
    cu_seqlens: Int[Tensor, "S1"]  # int32

    response_index: Int[Tensor, "N"]
    sequence_id: Int[Tensor, "N"]
    logp_rollout: Float[Tensor, "N"]
    policy_version: Int[Tensor, "N"]

    reward: Float[Tensor, "S"]
    advantage: Float[Tensor, "S"]
    correct: Bool[Tensor, "S"]
    truncated: Bool[Tensor, "S"]
    group_id: Int[Tensor, "S"]  # unique over the whole rollout batch, equal on every rank
    mini_batch: Int[Tensor, "S"]
    response_id: Int[Tensor, "S"]  # position of the response in the rollout batch

    answer_span: Int[Tensor, "S 2"] | None = None  # [start, end) among the response's tokens
    reference_answer: Int[Tensor, "S L"] | None = None  # gold answer's ids, padded with -1
    token_score: Float[Tensor, "N"] | None = None  # by the rollout engines; NaN: none
    logp_old: Float[Tensor, "N"] | None = None
    logp_reference: Float[Tensor, "N"] | None = None
    importance: Float[Tensor, "N"] | None = None  # off-policy correction w_t
    response_weight: Float[Tensor, "S"] | None = None  # of a group-coupled objective

    @property
    def num_tokens(self) -> int:
        """T."""
        return int(self.input_ids.shape[0])

    @property
    def num_response_tokens(self) -> int:
        """N."""
        return int(self.response_index.shape[0])

    @property
    def num_sequences(self) -> int:
        """S."""
        return int(self.reward.shape[0])

    @property
    def predict_index(self) -> Int[Tensor, "N"]:
        """Position in ``T`` whose hidden state predicts each response token."""
        return self.response_index - 1

    @property
    def response_length(self) -> Int[Tensor, "S"]:
        """|y_i| of every sequence."""
        return torch.bincount(self.sequence_id, minlength=self.num_sequences)

    @property
    def response_start(self) -> Int[Tensor, "S"]:
        """Place of every response's first token on the N axis."""
        length = self.response_length
        return length.cumsum(0) - length

    @property
    def sequence_length(self) -> Int[Tensor, "S"]:
        """Prompt and response tokens of every sequence."""
        return (self.cu_seqlens[1:] - self.cu_seqlens[:-1]).long()

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
        t = _ranges(self.cu_seqlens[:-1].long()[sequences], self.sequence_length[sequences])
        response_length = self.response_length
        first = torch.cumsum(response_length, 0) - response_length
        n = _ranges(first[sequences], response_length[sequences])

        lengths = self.sequence_length[sequences]
        cu_seqlens = torch.zeros(len(sequences) + 1, dtype=torch.int32, device=device)
        cu_seqlens[1:] = torch.cumsum(lengths, 0)
        local = torch.arange(len(sequences), device=device)
        local_sequence = torch.repeat_interleave(local, response_length[sequences])
        shift = cu_seqlens[:-1].long() - self.cu_seqlens[:-1].long()[sequences]

        changed: dict[str, Any] = {
            "cu_seqlens": cu_seqlens,
            "sequence_id": local_sequence,
            "response_index": self.response_index[n] + shift[local_sequence],
            "input_ids": self.input_ids[t],
            "position_ids": self.position_ids[t],
        }
        for name in _PER_TOKEN:
            value = getattr(self, name)
            changed[name] = None if value is None else value[n]
        for name in _PER_SEQUENCE:
            value = getattr(self, name)
            changed[name] = None if value is None else value[sequences]
        return replace(self, **changed), n

    def to(self, device: torch.device | str) -> TokenBatch:
        """The same batch on ``device``."""
        moved = {
            f.name: value.to(device)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)


_PER_TOKEN = (
    "logp_rollout",
    "policy_version",
    "token_score",
    "logp_old",
    "logp_reference",
    "importance",
)
_PER_SEQUENCE = (
    "reward",
    "advantage",
    "correct",
    "truncated",
    "group_id",
    "mini_batch",
    "response_id",
    "answer_span",
    "reference_answer",
    "response_weight",
)


def _ranges(start: Int[Tensor, "s"], length: Int[Tensor, "s"]) -> Int[Tensor, "total"]:
    """Concatenate ``arange(start_i, start_i + length_i)`` over i, without a Python loop."""
    total = int(length.sum())
    end = torch.cumsum(length, 0)
    offset = torch.repeat_interleave(start - (end - length), length)
    return torch.arange(total, device=start.device) + offset


@dataclass(frozen=True, slots=True)
class Totals:
    """Denominators of one mini-batch, summed over all its micro-batches and all ranks.

    ``groups`` counts every group of the mini-batch, with spread or without.
    """

    tokens: int
    responses: int
    groups: int
    max_response_tokens: int  # the configured limit, Dr.GRPO's constant
