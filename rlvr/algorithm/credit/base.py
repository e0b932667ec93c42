"""What a credit assigner is given and what it returns.

Credit is assigned once per rollout batch, under the old policy, with no gradient through it.
A rank holds some of the sequences; a group may be split over ranks, so every sum over a side,
a group or the batch is reduced over ``Ranks``.

Calls marked *collective* must be made equally often, in the same order, by every rank.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Flag, auto
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlvr.registry import Registry
from rlvr.types import CreditInputs, Group, Packing, Prompt, Sample, TokenBatch, TokenChoices


class Needs(Flag):
    """What the scoring pass must keep, or the policy must lend, for a method."""

    NONE = 0
    STATISTICS = auto()
    """logp, entropy and log_normaliser of every token that can receive a gradient."""
    HIDDEN = auto()
    """STATISTICS, and h_t of these tokens."""
    EVERY_TOKEN = auto()
    """What is kept, of the tokens too that can receive no gradient."""
    EMBEDDINGS = auto()
    """Further forward passes from input embeddings, differentiable in them."""


@dataclass
class Credit:
    """Token coefficients of this rank and what to report, equal on every rank."""

    coefficients: Float[Tensor, "N"]
    metrics: dict[str, float] = field(default_factory=dict)


@runtime_checkable
class Ranks(Protocol):
    """The data-parallel ranks; every method is collective."""

    rank: int
    size: int

    def all_reduce(self, x: Tensor, op: Literal["sum", "max", "min"] = "sum") -> Tensor:
        """The reduction of ``x`` over ranks, as a new tensor."""

    def all_gather(self, x: Tensor) -> Tensor:
        """``x`` of all ranks, in rank order, along the first dimension; lengths may differ."""


class SoloRanks:
    """One rank: for notebooks, tests, and methods that stay within a rank on purpose."""

    rank = 0
    size = 1

    def all_reduce(self, x: Tensor, op: Literal["sum", "max", "min"] = "sum") -> Tensor:
        return x

    def all_gather(self, x: Tensor) -> Tensor:
        return x


@runtime_checkable
class FrozenPolicy(Protocol):
    """The old policy, lent for credit. Parameter gradients stay untouched."""

    pad_token_id: int

    def head(self) -> AbstractContextManager[Float[Tensor, "V d"]]:
        """The rows of lm_head, whole while the context is open. Collective."""

    def embed(self, input_ids: Int[Tensor, "T"]) -> Float[Tensor, "T d"]:
        """Input embeddings, detached. Collective."""

    def hidden(self, embeddings: Float[Tensor, "T d"], packing: Packing) -> Float[Tensor, "T d"]:
        """Body and final norm, differentiable in ``embeddings``. Collective."""


@runtime_checkable
class Features(Protocol):
    """What the scoring pass kept of this rank's response tokens.

    Responses that can receive no gradient may be left out: ``scored`` is False there, the
    statistics are 0, and ``hidden`` does not yield them. A method that needs neither STATISTICS
    nor HIDDEN may find statistics that are 0 elsewhere too.
    """

    temperature: float
    """Sampling temperature: logits are divided by it everywhere."""
    logp: Float[Tensor, "N"]
    entropy: Float[Tensor, "N"]
    log_normaliser: Float[Tensor, "N"]
    """logsumexp of logits / temperature at the position that predicts the token."""
    scored: Bool[Tensor, "N"]
    policy: FrozenPolicy
    recomputes: bool
    """Whether every stream of ``hidden`` is a forward pass; alike on all ranks."""

    def hidden(self) -> Iterator[tuple[Int[Tensor, "n"], Float[Tensor, "n d"]]]:
        """h_t of every scored token once, chunk by chunk, each with its place on the N axis.

        Can be iterated again. Collective (it may recompute), and to be iterated to its end.
        """


@runtime_checkable
class CreditAssigner(Protocol):
    """Gives every response token its coefficient c_t.

    ``advantage_only`` (optional, default False) marks a method that is a reweighting of the
    advantage and has no meaning under an objective without one, ``signed`` (optional, default
    False) one whose c_t may be negative. ``state`` (optional), a dict of what JSON can say, is
    kept in checkpoints.
    """

    needs: Needs

    def assign(self, batch: TokenBatch, features: Features, ranks: Ranks) -> Credit:
        """c_t on the N axis, without a gradient. Collective."""


@dataclass(frozen=True)
class Question:
    """Which token comes next, under the policy and at the temperature that sampled the batch?

    The reply has the log-probabilities of so many of the most probable ``choices``, best first
    (of all tokens, if there are fewer), or of the tokens named, in their order.
    """

    token_ids: Sequence[int]
    choices: int | Sequence[int]


@dataclass(frozen=True)
class Prefix:
    """The first tokens of a response to a prompt."""

    prompt: Prompt
    token_ids: Sequence[int]


@runtime_checkable
class Driver(Protocol):
    """What the driver lends a method that prepares inputs: final answers, and the engines."""

    pad_token_id: int
    longest: int
    """Tokens that a question may have."""

    def answer_span(self, sample: Sample) -> tuple[int, int]:
        """[start, end) of the final answer among the response's tokens; (-1, -1): there is none."""

    def tokenize(self, text: str) -> list[int]:
        """Token ids of ``text``, without special ones."""

    def pieces(self, token_ids: Sequence[int]) -> list[str]:
        """What each token adds to the text, without special tokens."""

    async def ask(self, questions: Iterable[Question]) -> list[TokenChoices]:
        """The replies of the rollout workers, in order."""

    async def values(self, prefixes: Sequence[Prefix], samples: int) -> list[np.ndarray]:
        """The rewards of ``samples`` responses that continue each, float64 [samples], in order.

        Of what is a whole response its own reward, as often.
        """


@runtime_checkable
class PreparesInputs(Protocol):
    """A method that needs more than the ranks have: it runs on the driver too, before they score.

    What ``prepare`` returns, for all responses in sample order, ``assign`` finds for those of its
    rank as ``batch.inputs``.
    """

    async def prepare(self, groups: Sequence[Group], driver: Driver) -> CreditInputs:
        """The method's own inputs; once a step, between publishing a version and the next."""


CREDITS: Registry[CreditAssigner] = Registry("credit", "rlvr.algorithm.credit")
