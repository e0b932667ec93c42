"""A task and its judgement: the values that a verifier's process needs.

They live apart from ``rlvr.types``, which re-exports them, so that a verifier's process starts
without torch: in tenths of a second and in tens of megabytes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True)
class Prompt:
    """One task: what the policy reads (``token_ids``) and what the verifier needs."""

    id: str
    token_ids: Sequence[int]
    text: str
    answer: str
    verifier: str
    source: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    environment: str = ""  # that replies to the policy's turns; none: there is one turn


@dataclass(frozen=True, slots=True)
class Reply:
    """What an environment makes of a turn; ``state`` is its own, as JSON can say it."""

    observation: str | None  # what the policy reads next; None ends the conversation
    state: Any = None
    reward: float = 0.0  # on top of the verifier's
    failure: str = ""  # why there was no reply; the observation says so to the policy


class Outcome(StrEnum):
    """What became of a verification. Only the first two are judgements of the answer."""

    CORRECT = "correct"
    INCORRECT = "incorrect"
    UNPARSEABLE = "unparseable"
    TIMEOUT = "timeout"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verifier's judgement of one response; ``seconds`` is the verifier's own time."""

    reward: float
    outcome: Outcome
    detail: str = ""
    seconds: float = 0.0
    components: Mapping[str, float] = field(default_factory=dict)
