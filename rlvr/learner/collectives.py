"""Reductions among the learner's ranks, on tensors of any device."""

from functools import cache
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

_OPS = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN}


class DistributedRanks:
    """The learner's ranks, all or those of a group, as the ``Ranks`` protocol has them.

    A process that has joined no others is the only rank.
    """

    def __init__(self, device: torch.device, group: dist.ProcessGroup | None = None) -> None:
        self._alone = not dist.is_initialized()
        self.rank = 0 if self._alone else dist.get_rank(group)
        self.size = 1 if self._alone else dist.get_world_size(group)
        self.device = device
        self._group = group

    def all_reduce(self, x: Tensor, op: Literal["sum", "max", "min"] = "sum") -> Tensor:
        y = x.detach().to(self.device, copy=True)
        if self._alone:
            return y.to(x.device)
        dist.all_reduce(y, op=_OPS[op], group=self._group)
        return y.to(x.device)

    def all_gather(self, x: Shaped[Tensor, "n ..."]) -> Shaped[Tensor, "total ..."]:
        if self._alone:
            return x.detach()
        y = x.detach().to(self.device)
        lengths = torch.zeros(self.size, dtype=torch.long, device=self.device)
        lengths[self.rank] = len(y)
        dist.all_reduce(lengths, group=self._group)
        longest = int(lengths.max())
        padded = y.new_zeros((longest, *y.shape[1:]))
        padded[: len(y)] = y
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded, group=self._group)
        kept = [p[: int(n)] for p, n in zip(parts, lengths.tolist(), strict=True)]
        return torch.cat(kept).to(x.device)

    def max_count(self, count: int) -> int:
        """The largest ``count`` of any rank: how often all of them must run a collective."""
        return int(self.all_reduce(torch.tensor(count), "max"))


@cache
def ranks_on_node() -> int:
    """How many ranks run on this rank's machine, this one included; a collective."""
    if not dist.is_initialized():
        return 1
    booted = Path("/proc/sys/kernel/random/boot_id").read_text()  # one a kernel, containers or not
    everywhere: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(everywhere, booted)
    return everywhere.count(booted)
