"""Which prompt a draw has: sources take turns by their weights, each without replacement."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

_BLOCK = 64  # draws, in which every source has its share to within one draw


class Mixture:
    """Prompts by the number of a draw, which seed and shape alone decide.

    Args:
        sizes: prompts of each source; they lie one source after the other.
        weights: shares of the draws, up to a factor.
    """

    def __init__(
        self, sizes: Sequence[int], weights: Sequence[float], seed: int, shuffle: bool
    ) -> None:
        self._sizes = sizes
        self._share = np.array(weights, dtype=np.float64) / sum(weights)
        self._first = np.cumsum([0, *sizes])
        self._seed, self._shuffle = seed, shuffle
        self._drawn = [np.zeros(len(sizes), dtype=np.int64)]  # of each source, before every block
        self._order_of = lru_cache(maxsize=4 * len(sizes))(self._order)
        self._block_of = lru_cache(maxsize=64)(self._block)

    def at(self, number: int) -> tuple[int, int]:
        """The place of the draw's prompt, and how often its source was run through before."""
        source, count = 0, number
        if len(self._sizes) > 1:
            block, place = divmod(number, _BLOCK)
            sources = self._block_of(block)
            source = int(sources[place])
            count = int(self._drawn[block][source] + (sources[:place] == source).sum())
        turn, place = divmod(count, self._sizes[source])
        return int(self._first[source] + self._order_of(turn, source)[place]), turn

    def _block(self, number: int) -> np.ndarray:
        """The source of each draw of a block; int64 [_BLOCK]."""
        while len(self._drawn) <= number + 1:
            before = self._drawn[-1]
            wanted = self._share * len(self._drawn) * _BLOCK - before
            own = np.maximum(np.floor(wanted), 0).astype(np.int64)
            missing = _BLOCK - own.sum()
            own[np.argsort(own - wanted, kind="stable")[:missing]] += 1
            self._drawn.append(before + own)
        own = self._drawn[number + 1] - self._drawn[number]
        sources = np.repeat(np.arange(len(own)), own)
        return sources[self._shuffled(len(sources), number, len(self._sizes))]

    def _order(self, turn: int, source: int) -> np.ndarray:
        """int64 [prompts of the source]."""
        n = self._sizes[source]
        if not self._shuffle:
            return np.arange(n)
        return self._shuffled(n, turn, *((source,) if len(self._sizes) > 1 else ()))

    def _shuffled(self, n: int, *key: int) -> np.ndarray:
        # Sorted raw draws, not Generator.permutation: numpy promises the former for good, so a
        # checkpoint continues alike under a newer numpy.
        draws = np.random.PCG64(np.random.SeedSequence([self._seed, *key])).random_raw(n)
        return np.argsort(draws, kind="stable")
