"""``adapter``: of a model with adapters these alone travel, to engines that have the rest."""

from collections.abc import Iterator
from typing import Any

from rlvr.weights.base import WEIGHT_BACKENDS, Meeting, WeightBackend
from rlvr.weights.source import ShardedWeightSource


@WEIGHT_BACKENDS.register("adapter")
class AdapterBackend(WeightBackend):
    """Through Ray's object store, a few megabytes; ``rlvr.rollout.adapters`` is its other end."""

    concurrent = False
    engine = None  # vLLM's LoRA takes the place of a transfer

    def __init__(self, source: ShardedWeightSource, rank: int, meeting: Meeting) -> None:
        super().__init__(source, rank, meeting)
        self._objects: list[Any] = []

    def send(self, version: int) -> Iterator[dict[str, Any]]:
        """A and B of every layer, float32, in one part."""
        import ray

        found = {
            layer: tuple(x.detach().float().cpu().numpy().copy() for x in (a, b))
            for layer, a, b in self.source.adapters()
            if self.rank == 0
        }
        if self.rank == 0:
            self._objects = [ray.put(found)]
        yield {"adapters": self._objects}

    def release(self) -> None:
        """The engines have read them, or never will."""
        self._objects = []
