"""The endless, shuffled, resumable stream of prompts."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlvr.errors import DataError
from rlvr.types import Prompt


class PromptStream:
    """Epoch after epoch of ``prompts``, each in an order that seed and epoch alone decide.

    A batch may cross from one epoch into the next, and may then hold a prompt twice.
    """

    def __init__(self, prompts: Sequence[Prompt], seed: int, shuffle: bool = True) -> None:
        if not prompts:
            raise DataError("there is no prompt to stream.")
        self.prompts = prompts
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0
        self._position = 0  # prompts of this epoch that were given out
        self._order = self._order_of(0)
        self._fingerprint = _fingerprint(prompts)

    def next_batch(self, n: int) -> list[Prompt]:
        batch: list[Prompt] = []
        while len(batch) < n:
            if self._position == len(self.prompts):
                self.epoch, self._position = self.epoch + 1, 0
                self._order = self._order_of(self.epoch)
            end = self._position + n - len(batch)
            taken = self._order[self._position : end]
            batch += [self.prompts[i] for i in taken]
            self._position += len(taken)
        return batch

    def state(self) -> dict[str, Any]:
        return {
            "fingerprint": self._fingerprint,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "epoch": self.epoch,
            "position": self._position,
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
                raise DataError(
                    f"the run cannot resume in another order: {key} is {ours}, the checkpoint's is "
                    f"{state[key]}. Set it back, or start a new run."
                )
        self.epoch, self._position = state["epoch"], state["position"]
        self._order = self._order_of(self.epoch)

    def _order_of(self, epoch: int) -> np.ndarray:
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
