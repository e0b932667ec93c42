"""The endless, shuffled, resumable stream of prompts."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rlvr.data.curriculum import Curriculum
from rlvr.data.mixture import Mixture
from rlvr.errors import DataError
from rlvr.types import Prompt

_KEYS = {"seed": "train.seed", "shuffle": "data.shuffle", "weights": "data.train.*.weight"}


@dataclass(frozen=True, slots=True)
class Draw:
    """A prompt at its turn; ``number`` counts the draws of a run from 0."""

    number: int
    prompt: Prompt
    turn: int = 0  # how often its source was run through before


class PromptStream:
    """Prompt after prompt, without end, in an order that the seed alone decides.

    A draw is settled when it has been trained on or discarded. The state is what is settled, so
    that a resumed run draws again what was under way, and nothing else, whatever the order.

    Args:
        prompts: source after source.
        seed: of the order.
        shuffle: each source anew in every turn.
        sources: prompts and weight of each; by default all prompts are one.
        curriculum: what says which prompts rest. Their draws are settled unseen.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        seed: int,
        shuffle: bool = True,
        sources: Sequence[tuple[int, float]] = (),
        curriculum: Curriculum | None = None,
    ) -> None:
        if not prompts:
            raise DataError("there is no prompt to stream.")
        self.prompts = prompts
        self.seed = seed
        self.shuffle = shuffle
        sizes, weights = zip(*(sources or [(len(prompts), 1.0)]), strict=True)
        self._mixture = Mixture(sizes, weights, seed, shuffle)
        self._order: dict[str, Any] = {"seed": seed, "shuffle": shuffle, "weights": list(weights)}
        self.curriculum = curriculum
        self._next = 0  # number of the next draw
        self._first = 0  # all draws below it are settled
        self._settled: set[int] = set()  # the others that are
        self._fingerprint = _fingerprint(prompts)

    def draw(self, n: int) -> list[Draw]:
        """The next ``n`` that are neither settled nor at rest."""
        drawn: list[Draw] = []
        resting: list[Draw] = []
        while len(drawn) < n:
            if self._next not in self._settled:
                draw = self._draw(self._next)
                rests = self.curriculum and self.curriculum.rests(draw.prompt.id, draw.turn)
                if rests and len(resting) < len(self.prompts):  # never all of them
                    resting.append(draw)
                else:
                    drawn.append(draw)
            self._next += 1
        self.settle(resting)
        return drawn

    def repeats(self, draw: Draw, since: int) -> int:
        """How often draws ``since`` .. ``draw.number`` - 1 have the same prompt."""
        one_source = len(self._order["weights"]) == 1
        if draw.turn == 0 or (one_source and self._draw(since).turn == draw.turn):
            return 0
        earlier = (self._draw(number) for number in range(since, draw.number))
        return sum(other.prompt.id == draw.prompt.id for other in earlier)

    def settle(self, draws: Iterable[Draw]) -> None:
        self._settled |= {draw.number for draw in draws}
        while self._first in self._settled:
            self._settled.remove(self._first)
            self._first += 1

    def learn(self, judged: Iterable[tuple[Draw, bool]]) -> None:
        """Tell the curriculum of groups, each with whether its rewards differ."""
        if self.curriculum is not None:
            for draw, spread in judged:
                self.curriculum.saw(draw.prompt.id, draw.turn, spread)

    def rewind(self) -> None:
        """Give out again whatever is not settled."""
        self._next = self._first

    def state(self) -> dict[str, Any]:
        return {
            "fingerprint": self._fingerprint,
            **self._order,
            "first": self._first,
            "settled": sorted(self._settled),
            "curriculum": self.curriculum.state() if self.curriculum else None,
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
        for key, ours in self._order.items():
            if state[key] != ours:
                raise DataError(
                    f"the run cannot resume in another order: {_KEYS[key]} is {ours}, the "
                    f"checkpoint's is {state[key]}. Set it back, or start a new run."
                )
        self._first, self._settled = state["first"], set(state["settled"])
        if self.curriculum:
            self.curriculum.restore(state["curriculum"] or {})
        self.rewind()

    def _draw(self, number: int) -> Draw:
        place, turn = self._mixture.at(number)
        return Draw(number, self.prompts[place], turn)


def _fingerprint(prompts: Sequence[Prompt]) -> str:
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(prompt.id.encode() + b"\0")
    return digest.hexdigest()[:32]
