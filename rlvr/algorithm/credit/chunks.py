"""Work in chunks that fit in memory, of which all ranks do equally many."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, repeat
from typing import TypeVar

import torch

from rlvr.algorithm.credit.base import Ranks

T = TypeVar("T")


def chunked(items: Iterable[T], cost: Callable[[T, T | None], int], budget: int) -> list[list[T]]:
    """``items`` in order, cut so that each chunk costs ``budget`` at most, or has one item.

    ``cost`` is given an item and the one before it in its chunk, None for the first.
    """
    chunks: list[list[T]] = []
    room = 0
    for item in items:
        if not chunks or cost(item, chunks[-1][-1]) > room:
            chunks.append([item])
            room = budget - cost(item, None)
        else:
            room -= cost(item, chunks[-1][-1])
            chunks[-1].append(item)
    return chunks


def in_step(own: Sequence[list[T]], ranks: Ranks) -> Iterator[list[T]]:
    """This rank's chunks, then empty ones until every rank has had its last. Collective."""
    most = int(ranks.all_reduce(torch.tensor(len(own)), "max"))
    return chain(own, repeat([], most - len(own)))
