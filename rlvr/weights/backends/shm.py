"""A policy version in shared memory: one file that the sender writes and the engines map."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlvr.config import ClusterConfig
from rlvr.weights.base import WEIGHT_BACKENDS, Meeting, WeightBackend
from rlvr.weights.source import ParameterMeta, ShardedWeightSource

_FOLDER = Path("/dev/shm")
_ALIGN = 64  # bytes


@dataclass
class Segment:
    """Where a published version lies and how it is laid out; travels to the engines."""

    path: str
    nbytes: int
    names: list[str]
    dtypes: list[str]
    shapes: list[list[int]]
    offsets: list[int]

    @classmethod
    def plan(cls, path: Path, metadata: Iterable[ParameterMeta]) -> Segment:
        """Lay the parameters out one after the other, aligned."""
        segment, at = cls(str(path), 0, [], [], [], []), 0
        for meta in metadata:
            segment.names.append(meta.name)
            segment.dtypes.append(str(meta.dtype).removeprefix("torch."))
            segment.shapes.append(list(meta.shape))
            segment.offsets.append(at)
            at += -(-meta.nbytes // _ALIGN) * _ALIGN
        segment.nbytes = at
        return segment

    def map(self, *, create: bool = False) -> Iterator[tuple[str, Tensor]]:
        """Views of every parameter in the file. They keep its memory alive after unlinking."""
        if not create and not Path(self.path).exists():
            raise FileNotFoundError(
                f"{self.path} is gone: its publish timed out or was withdrawn, or the sender runs "
                "on another machine (weights.backend=shm is for one machine)"
            )
        raw = torch.from_file(self.path, shared=True, size=self.nbytes, dtype=torch.uint8)
        for name, dtype, shape, at in zip(
            self.names, self.dtypes, self.shapes, self.offsets, strict=True
        ):
            kind = getattr(torch, dtype)
            n = torch.Size(shape).numel() * kind.itemsize
            yield name, raw[at : at + n].view(kind).view(shape)


@WEIGHT_BACKENDS.register("shm")
class SharedMemoryBackend(WeightBackend):
    """Learner side of the ``shm`` backend: rank 0 writes, the other ranks help to gather.

    The engines read after the send, so nothing here can wait for an engine.
    """

    concurrent = False
    engine = "rlvr.weights.shm_engine:SharedMemoryWeightTransferEngine"

    def __init__(self, source: ShardedWeightSource, rank: int, meeting: Meeting) -> None:
        super().__init__(source, rank, meeting)
        self._stem = f"rlvr-{uuid.uuid4().hex[:12]}"
        self._written: list[Path] = []

    @staticmethod
    def refusal(cluster: ClusterConfig) -> str | None:
        """Memory of the host."""
        return "is for the CPU; use nccl, ipc or auto" if cluster.gpus else None

    def send(self, version: int) -> dict[str, Any]:
        """Write this version and return its segment (an empty dict on the other ranks)."""
        if self.rank:
            for _ in self.source:
                pass
            return {}
        path = _FOLDER / f"{self._stem}-{version}-{uuid.uuid4().hex[:6]}"
        segment = Segment.plan(path, self.source.metadata())
        self._written.append(path)
        target = dict(segment.map(create=True))
        for name, tensor in self.source:
            target[name].copy_(tensor)
        return asdict(segment)

    def release(self) -> None:
        """Unlink what was sent. Engines that mapped it keep it; others are refused."""
        while self._written:
            self._written.pop().unlink(missing_ok=True)
