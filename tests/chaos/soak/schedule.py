"""Which fault comes when: drawn from the seed alone, so that a soak can be made again."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

# Of a deck of cards that is shuffled, dealt and shuffled again. The faults that end the driver are
# few, so that processes live long enough for their memory to be judged.
DECK = {
    "rollout worker killed": 2,
    "rollout worker stopped": 2,
    "engine raises": 2,
    "learner rank killed": 2,
    "learner rank stopped for 10 s": 1,
    "verifier actor killed": 2,
    "verifier process killed": 2,
    "batch not finite": 2,
    "Ray's head killed": 1,
    "driver killed": 1,
    "driver killed, checkpoint damaged": 1,
}


@dataclass(frozen=True)
class Fault:
    """``wait_s`` after the one before it; ``draw`` in [0, 1) says which process, or file."""

    wait_s: float
    kind: str
    draw: float

    def pick(self, victims: list):
        return victims[int(self.draw * len(victims))]


def each(seed: int) -> Iterator[Fault]:
    """Every kind once."""
    rng = random.Random(seed)
    for kind in rng.sample(list(DECK), len(DECK)):
        yield Fault(0.0, kind, round(rng.random(), 4))


def schedule(seed: int, minutes: float, waits: tuple[float, float]) -> Iterator[Fault]:
    """The faults of so many minutes, if none of them had to wait for its victim."""
    rng = random.Random(seed)
    cards = [kind for kind, count in DECK.items() for _ in range(count)]
    left = 60 * minutes
    while True:
        for kind in rng.sample(cards, len(cards)):
            fault = Fault(round(rng.uniform(*waits), 1), kind, round(rng.random(), 4))
            left -= fault.wait_s
            if left < 0:
                return
            yield fault
