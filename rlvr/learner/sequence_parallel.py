"""Ranks that share the tokens of every sequence: Ulysses (arXiv 2309.14509) on packed batches.

Each of them computes a part of the T packed tokens. Around attention, which needs all tokens,
they exchange tokens for heads: every rank has all tokens of some heads, and afterwards its own
tokens of all heads again. From the statistics on, all of them hold, and compute, the same: so the
gradient of a loss is whole once those of the ranks are added up.
"""

from functools import cache
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor


class SequenceParallel:
    """The ranks with which this one shares its sequences, and what they exchange.

    Args:
        size: how many neighbours are such a group. A collective among all ranks.
    """

    def __init__(self, size: int = 1) -> None:
        self.size, self.rank = size, 0
        self.group: dist.ProcessGroup | None = None
        self.data_parallel: dist.ProcessGroup | None = None
        """The ranks that have the same part of other sequences; None: all ranks."""
        if size > 1:
            world = dist.get_world_size()
            self.rank = dist.get_rank() % size
            self.group, _ = dist.new_subgroups(size)
            alike = [list(range(k, world, size)) for k in range(size)]
            self.data_parallel, _ = dist.new_subgroups_by_enumeration(alike)

    def own(self, x: Shaped[Tensor, "T ..."]) -> Shaped[Tensor, "t ..."]:
        """This rank's part of what all ranks hold, filled up with zeros; without a gradient."""
        count = self.share(len(x))
        part = x[self.rank * count : (self.rank + 1) * count]
        return F.pad(part, (*(0, 0) * (x.ndim - 1), 0, count - len(part)))

    def share(self, tokens: int) -> int:
        """t: tokens of a rank, the last one's filled up."""
        return -(-tokens // self.size)

    def places(self, index: Int[Tensor, "N"], tokens: int) -> tuple[Tensor | slice, Tensor]:
        """Which of ``index``, places in T, are this rank's, and where they are in its part."""
        if self.size == 1:
            return slice(None), index
        first = self.rank * self.share(tokens)
        own = torch.nonzero((index >= first) & (index < first + self.share(tokens)))[:, 0]
        return own, index[own] - first

    def joined(self, x: Float[Tensor, "n ..."], place: Tensor | slice, count: int) -> Tensor:
        """The rows of all ranks, each at its ``place`` among ``count``, on every one of them."""
        if isinstance(place, slice):
            return x
        whole = x.new_zeros((count, *x.shape[1:])).index_copy(0, place, x)
        result: Tensor = _Sum.apply(whole, self.group)
        return result

    def whole(self, x: Float[Tensor, "t ..."], tokens: int) -> Float[Tensor, "T ..."]:
        """The parts of all ranks on every one of them."""
        everywhere = torch.arange(tokens, device=x.device)
        own, place = self.places(everywhere, tokens)
        return self.joined(x[: len(place)], own, tokens)

    def lent(self, x: Float[Tensor, "T ..."]) -> Float[Tensor, "t ..."]:
        """As ``own``, for what all ranks hold and need the gradient of."""
        return x if self.size == 1 else self.own(_SumGradient.apply(x, self.group))

    def to_heads(self, x: Float[Tensor, "H t d"], tokens: int) -> Float[Tensor, "Hp T d"]:
        """All tokens of this rank's heads; heads fewer than ranks are repeated."""
        x = x.repeat_interleave(max(1, self.size // x.shape[0]), 0)
        parts = _Exchange.apply(x.unflatten(0, (self.size, -1)), self.group)
        return parts.transpose(0, 1).flatten(1, 2)[:, :tokens]

    def to_tokens(self, x: Float[Tensor, "T Hp d"]) -> Float[Tensor, "t H d"]:
        """The way back: this rank's tokens of all heads."""
        count = self.share(len(x))
        filled = F.pad(x, (0, 0, 0, 0, 0, count * self.size - len(x)))
        parts = _Exchange.apply(filled.unflatten(0, (self.size, -1)), self.group)
        return parts.transpose(0, 1).flatten(1, 2)


@cache
def sequence_parallel(size: int) -> SequenceParallel:
    """One and the same for all models of a process: process groups are not given back."""
    return SequenceParallel(size)


class _Exchange(torch.autograd.Function):
    """Row k of the first axis goes to rank k, and comes from there."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        x = x.contiguous()
        received = torch.empty_like(x)
        dist.all_to_all_single(received, x, group=group)
        return received

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Exchange.apply(gradient, ctx.group), None


class _Sum(torch.autograd.Function):
    """The sum over ranks; each has the whole gradient of it already."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        total = x.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _SumGradient(torch.autograd.Function):
    """The same value; each rank has a part of its gradient only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Sum.apply(gradient, ctx.group), None
