"""``object_store``: a version lies in Ray's object store, which is shared memory between the
processes of one machine and a transfer between two."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rlvr.config import ClusterConfig
from rlvr.weights.base import WEIGHT_BACKENDS, Meeting, WeightBackend
from rlvr.weights.source import ShardedWeightSource


@WEIGHT_BACKENDS.register("object_store")
class ObjectStoreBackend(WeightBackend):
    """Rank 0 puts one object a layer, the other ranks help to gather.

    The engines read after the send, so nothing here can wait for an engine. An object lives until
    it is released here and no engine has it mapped any more.
    """

    concurrent = False
    engine = "rlvr.weights.object_store_engine:ObjectStoreEngine"

    def __init__(self, source: ShardedWeightSource, rank: int, meeting: Meeting) -> None:
        super().__init__(source, rank, meeting)
        self._objects: list[Any] = []

    @staticmethod
    def refusal(cluster: ClusterConfig) -> str | None:
        """The objects lie in the memory of the host."""
        return "is for CPUs; use auto" if cluster.gpus else None

    def send(self, version: int) -> Iterator[dict[str, Any]]:
        """Put this version, all in one part, so that an engine can undo it; tell where it lies."""
        import ray

        for layer in self.source.layers():
            if self.rank == 0:
                self._objects.append(ray.put([_as_bytes(tensor) for _, tensor in layer]))
        yield {**self.described(), "objects": self._objects}

    def release(self) -> None:
        """Drop what was sent. Engines that mapped it keep it."""
        self._objects = []


def _as_bytes(tensor: Tensor) -> Any:
    """NumPy knows no bfloat16, and Ray maps NumPy arrays without a copy."""
    return tensor.contiguous().view(-1).view(torch.uint8).numpy()
