"""The learner's weights as a stream of whole tensors, gathered layer by layer."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

Gather = Callable[[Iterable[nn.Parameter]], AbstractContextManager[Any]]


@runtime_checkable
class Adapter(Protocol):
    """Parameters that change another one, as ``rlvr.learner.lora`` has them."""

    @property
    def parameters(self) -> tuple[nn.Parameter, ...]: ...

    def added_to(self, weight: Tensor) -> Tensor:
        """A tensor of the shape and type of ``weight``."""


# By the names of the model's files
Weights = Mapping[str, tuple[nn.Parameter, Adapter | None]]


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
    """Full weights of a ZeRO-sharded model under their checkpoint names, adapters added.

    Satisfies vLLM's ``WeightSource``: ``metadata()`` needs no transfer, iteration is a
    collective among the ranks. One layer is whole at a time, so memory stays at one layer
    beyond the shards. ``gather`` is the context that makes parameters whole.
    """

    def __init__(self, weights: Weights, gather: Gather) -> None:
        self._gather = gather
        self.attach(weights)

    def attach(self, weights: Weights) -> None:
        """From now on stream ``weights``, of a model of the same architecture."""
        self._weights = weights

    def metadata(self) -> list[ParameterMeta]:
        """Name, dtype and full shape of every weight, in the order of iteration."""
        return [
            ParameterMeta(name, p.dtype, tuple(getattr(p, "ds_shape", p.shape)))
            for group in self._layers()
            for name, (p, _) in group.items()
        ]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, full tensor); a tensor is valid until the next layer begins."""
        for layer in self.layers():
            yield from layer

    def layers(self) -> Iterator[list[tuple[str, Tensor]]]:
        for group in self._layers():
            adapters = [adapter.parameters for _, adapter in group.values() if adapter]
            with self._gather([*(p for p, _ in group.values()), *chain.from_iterable(adapters)]):
                yield [
                    (name, adapter.added_to(p.detach()) if adapter else p.detach())
                    for name, (p, adapter) in group.items()
                ]

    def adapters(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield (layer, A, B) of every layer that has an adapter; a collective.

        The two are whole until the next begins.
        """
        for name, (_, adapter) in self._weights.items():
            if adapter is not None:
                with self._gather(adapter.parameters):
                    a, b = adapter.parameters
                    yield name.removesuffix(".weight"), a, b

    def _layers(self) -> list[Weights]:
        """Weights by decoder layer; those outside of any layer go alone, first to last."""
        groups: dict[str, dict[str, tuple[nn.Parameter, Adapter | None]]] = {}
        for name, weight in self._weights.items():
            parts = name.split(".")
            index = next((i for i, part in enumerate(parts) if part.isdigit()), None)
            key = name if index is None else ".".join(parts[: index + 1])
            groups.setdefault(key, {})[name] = weight
        return list(groups.values())
