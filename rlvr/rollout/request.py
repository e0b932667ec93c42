"""What is asked of a rollout worker: one response to one prompt."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from rlvr.config import RolloutConfig

MOST_CHOICES = 128  # vLLM's bound on tokens named by a request


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. ``temperature`` 0 is greedy; ``top_k`` 0 is off."""

    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    stop_token_ids: tuple[int, ...]

    @classmethod
    def of(cls, config: RolloutConfig, stop_token_ids: Sequence[int]) -> Self:
        """As training samples."""
        drawn = config.temperature, config.top_p, config.top_k
        return cls(*drawn, config.max_response_tokens, tuple(stop_token_ids))


@dataclass(frozen=True, slots=True)
class Request:
    """One response to sample; ``id`` is unique among the requests in flight.

    ``choices`` asks for further log-probabilities at the first token: of so many of the most
    probable tokens, or of the tokens named (at most ``MOST_CHOICES``).
    """

    id: str
    token_ids: Sequence[int]
    seed: int | None  # None: any
    sampling: Sampling
    choices: int | Sequence[int] = 0
    # Of a request that has been answered, and of one that continues it: where the beginning is
    # cached (a ``routing.Load``). It does not travel.
    home: Any = field(default=None, compare=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        # A dataclass with slots travels slowly by itself, and thousands a second do.
        return Request, (self.id, self.token_ids, self.seed, self.sampling, self.choices)

    @property
    def cost(self) -> int:
        """Tokens that the request may come to hold, the pool's measure of load."""
        return len(self.token_ids) + self.sampling.max_tokens


def sample_seed(run_seed: int, prompt_id: str, step: int, sample: int) -> int:
    """The seed of a response, the same whichever worker samples it and when; 63 bits."""
    return _hashed(f"{run_seed}\x1f{prompt_id}\x1f{step}\x1f{sample}")


def turn_seed(seed: int | None, turn: int) -> int | None:
    """The seed of a response's turn, counted from 0, whose first has the response's own."""
    return seed if seed is None or turn == 0 else _hashed(f"{seed}\x1f{turn}")


def _hashed(key: str) -> int:
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
