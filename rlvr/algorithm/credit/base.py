"""What a credit assigner is given and what it returns.

Credit is assigned once per rollout batch, under the old policy, with no gradient through it.
A rank holds some of the sequences; a group may be split over ranks, so every sum over a side,
a group or the batch is reduced over ``Ranks``.

Calls marked *collective* must be made equally often, in the same order, by every rank.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Flag, auto
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlvr.algorithm.registry import Registry
from rlvr.types import Answers, Group, TokenBatch, TokenChoices


class Needs(Flag):
    """What the scoring pass must keep, or the policy must lend, for a method."""

    NONE = 0
    STATISTICS = auto()
    """logp, entropy and log_normaliser of every token that can receive a gradient."""
    HIDDEN = auto()
    """STATISTICS, and h_t of these tokens."""
    EMBEDDINGS = auto()
    """Further forward passes from input embeddings, differentiable in them."""
    ANSWER = auto()
    """``batch.answer_span`` and ``batch.reference_answer``."""
    TOKEN_SCORES = auto()
    """``batch.token_score``, made of the rollout engines' replies; see ``Inquirer``."""


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
        ...

    def all_gather(self, x: Tensor) -> Tensor:
        """``x`` of all ranks, in rank order, along the first dimension; lengths may differ."""
        ...


class SoloRanks:
    """One rank: for notebooks, tests, and methods that stay within a rank on purpose."""

    rank = 0
    size = 1

    def all_reduce(self, x: Tensor, op: Literal["sum", "max", "min"] = "sum") -> Tensor:
        """``x``."""
        return x

    def all_gather(self, x: Tensor) -> Tensor:
        """``x``."""
        return x


@runtime_checkable
class FrozenPolicy(Protocol):
    """The old policy, lent for credit. Parameter gradients stay untouched."""

    pad_token_id: int

    def head(self) -> AbstractContextManager[Float[Tensor, "V d"]]:
        """The rows of lm_head, whole while the context is open. Collective."""
        ...

    def embed(self, input_ids: Int[Tensor, "T"]) -> Float[Tensor, "T d"]:
        """Input embeddings, detached. Collective."""
        ...

    def hidden(
        self,
        embeddings: Float[Tensor, "T d"],
        batch: TokenBatch,
        prefix: Int[Tensor, "S 2"] | None = None,
    ) -> Float[Tensor, "T d"]:
        """Body and final norm, differentiable in ``embeddings``. Collective.

        Of ``batch`` only ``input_ids``, ``position_ids`` and ``cu_seqlens`` are read. A sequence
        may continue tokens of another one, where that has them: ``prefix`` is [start, end) in T
        of what each continues, empty for those that stand alone.
        """
        ...


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
        ...


@runtime_checkable
class CreditAssigner(Protocol):
    """Gives every response token its coefficient c_t ≥ 0.

    ``advantage_only`` (optional, default False) marks a method that is a reweighting of the
    advantage and has no meaning under an objective without one.
    """

    needs: Needs

    def assign(self, batch: TokenBatch, features: Features, ranks: Ranks) -> Credit:
        """c_t on the N axis, without a gradient. Collective."""
        ...


@dataclass(frozen=True)
class Question:
    """Which token comes next, under the policy and at the temperature that sampled the batch?

    The reply has the log-probabilities of so many of the most probable ``choices``, best first
    (of all tokens, if there are fewer), or of the tokens named, in their order.
    """

    token_ids: Sequence[int]
    choices: int | Sequence[int]


Inquiry = Generator[Iterable[Question], Sequence[TokenChoices], Float[Tensor, "N"]]
"""Yields rounds of questions, is sent the replies to each, returns a score for every token."""


@runtime_checkable
class Inquirer(Protocol):
    """A credit method with ``Needs.TOKEN_SCORES``, as the driver sees it."""

    def inquire(
        self, groups: Sequence[Group], answers: Answers | None, pad_token_id: int, longest: int
    ) -> Inquiry:
        """Scores of all response tokens of ``groups``, in sample order; NaN where there is none.

        A question has at most ``longest`` tokens. ``answers`` come with ``Needs.ANSWER``. What
        the method returns on the driver its ``assign`` finds on the ranks as
        ``batch.token_score``.
        """
        ...


CREDITS: Registry[CreditAssigner] = Registry("credit", "rlvr.algorithm.credit")
