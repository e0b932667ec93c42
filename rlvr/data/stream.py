"""The endless, shuffled, resumable stream of prompts."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from rlvr.errors import DataError
from rlvr.types import Prompt


@dataclass(frozen=True, slots=True)
class Draw:
    """A prompt at its turn; ``number`` counts the draws of a run from 0."""

    number: int
    prompt: Prompt


class PromptStream:
    """Epoch after epoch of ``prompts``, each in an order that seed and epoch alone decide.

    A draw is settled when it has been trained on or discarded. The state is what is settled, so
    that a resumed run draws again what was under way, and nothing else, whatever the order.
    """

    def __init__(self, prompts: Sequence[Prompt], seed: int, shuffle: bool = True) -> None:
        if not prompts:
            raise DataError("there is no prompt to stream.")
        self.prompts = prompts
        self.seed = seed
        self.shuffle = shuffle
        self._next = 0  # number of the next draw
        self._first = 0  # all draws below it are settled
        self._settled: set[int] = set()  # the others that are
        self._order_of = lru_cache(maxsize=4)(self._order)
        self._fingerprint = _fingerprint(prompts)

    def draw(self, n: int) -> list[Draw]:
        """The next ``n`` that are not settled; they may cross from one epoch into the next."""
        drawn: list[Draw] = []
        while len(drawn) < n:
            if self._next not in self._settled:
                drawn.append(Draw(self._next, self._prompt(self._next)))
            self._next += 1
        return drawn

    def repeats(self, draw: Draw, since: int) -> int:
        """How often draws ``since`` .. ``draw.number`` - 1 have the same prompt."""
        earlier_epochs = range(since, draw.number - draw.number % len(self.prompts))
        return sum(self._prompt(number).id == draw.prompt.id for number in earlier_epochs)

    def settle(self, draws: Iterable[Draw]) -> None:
        self._settled |= {draw.number for draw in draws}
        while self._first in self._settled:
            self._settled.remove(self._first)
            self._first += 1

    def rewind(self) -> None:
        """Give out again whatever is not settled."""
        self._next = self._first

    def state(self) -> dict[str, Any]:
        epoch, position = divmod(self._first, len(self.prompts))
        return {
            "fingerprint": self._fingerprint,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "epoch": epoch,
            "position": position,
            "settled": sorted(self._settled),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` was taken, with the sequence that would have followed.

        Raises:
            DataError: the state belongs to other data or to another order.
        """
        if state["fingerprint"] != self._fingerprint:
            raise DataError(
                "the run cannot resume on other data: the ids of its prompts differ from those of "
                "the checkpoint. Give it the same data.* settings and files, or start a new run."
            )
        for key, ours in (("seed", self.seed), ("shuffle", self.shuffle)):
            if state[key] != ours:
                named = {"seed": "train.seed", "shuffle": "data.shuffle"}[key]
                raise DataError(
                    f"the run cannot resume in another order: {named} is {ours}, the "
                    f"checkpoint's is {state[key]}. Set it back, or start a new run."
                )
        self._first = state["epoch"] * len(self.prompts) + state["position"]
        self._settled = set(state.get("settled", ()))  # of a run in prompt order there are none
        self.rewind()

    def _prompt(self, number: int) -> Prompt:
        epoch, position = divmod(number, len(self.prompts))
        return self.prompts[self._order_of(epoch)[position]]

    def _order(self, epoch: int) -> np.ndarray:
        """int64 [prompts]."""
        n = len(self.prompts)
        if not self.shuffle:
            return np.arange(n)
        # Sorted raw draws, not Generator.permutation: numpy promises the former for good, so a
        # checkpoint continues alike under a newer numpy.
        draws = np.random.PCG64(np.random.SeedSequence([self.seed, epoch])).random_raw(n)
        return np.argsort(draws, kind="stable")


def _fingerprint(prompts: Sequence[Prompt]) -> str:
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(prompt.id.encode() + b"\0")
    return digest.hexdigest()[:32]
