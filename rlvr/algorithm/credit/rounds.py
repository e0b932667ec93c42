"""Work in rounds that fit in memory, of which all ranks make equally many."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, repeat
from typing import TypeVar

import torch

from rlvr.algorithm.credit.base import Ranks

T = TypeVar("T")


def rounds(items: Iterable[T], cost: Callable[[T, T | None], int], budget: int) -> list[list[T]]:
    """``items`` in order, cut so that each round costs ``budget`` at most, or has one item.

    ``cost`` is given an item and the one before it in its round, None for the first.
    """
    cut: list[list[T]] = []
    room = 0
    for item in items:
        if not cut or cost(item, cut[-1][-1]) > room:
            cut.append([item])
            room = budget - cost(item, None)
        else:
            room -= cost(item, cut[-1][-1])
            cut[-1].append(item)
    return cut


def in_step(own: Sequence[list[T]], ranks: Ranks) -> Iterator[list[T]]:
    """This rank's rounds, then empty ones until every rank has had its last. Collective."""
    most = int(ranks.all_reduce(torch.tensor(len(own)), "max"))
    return chain(own, repeat([], most - len(own)))
