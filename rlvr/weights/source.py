"""The learner's weights as a stream of whole tensors, gathered layer by layer."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Gather = Callable[[Iterable[nn.Parameter]], AbstractContextManager[Any]]


@dataclass(frozen=True)
class ParameterMeta:
    """What iteration will yield: name, dtype and full shape."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class ShardedWeightSource:
    """Full parameters of a ZeRO-sharded model under their checkpoint names.

    Satisfies vLLM's ``WeightSource``: ``metadata()`` needs no transfer, iteration is a
    collective among the ranks. One layer is whole at a time, so memory stays at one layer
    beyond the shards. ``gather`` is the context that makes parameters whole.
    """

    def __init__(self, model: nn.Module, gather: Gather) -> None:
        self._gather = gather
        self.attach(model)

    def attach(self, model: nn.Module) -> None:
        """From now on stream ``model``, of the same architecture."""
        self._parameters = dict(model.named_parameters())  # tied weights appear once

    def metadata(self) -> list[ParameterMeta]:
        """Name, dtype and full shape of every parameter, in the order of iteration."""
        return [
            ParameterMeta(name, p.dtype, tuple(getattr(p, "ds_shape", p.shape)))
            for group in self._layers()
            for name, p in group
        ]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, full tensor); a tensor is valid until the next layer begins."""
        for layer in self.layers():
            yield from layer

    def layers(self) -> Iterator[list[tuple[str, Tensor]]]:
        for group in self._layers():
            with self._gather([p for _, p in group]):
                yield [(name, p.detach()) for name, p in group]

    def _layers(self) -> list[list[tuple[str, nn.Parameter]]]:
        """Parameters by decoder layer; those outside of any layer go alone, first to last."""
        groups: dict[str, list[tuple[str, nn.Parameter]]] = {}
        for name, p in self._parameters.items():
            parts = name.split(".")
            index = next((i for i, part in enumerate(parts) if part.isdigit()), None)
            key = name if index is None else ".".join(parts[: index + 1])
            groups.setdefault(key, []).append((name, p))
        return list(groups.values())
