"""The learner's end of a weight transfer: one protocol, three backends."""

from __future__ import annotations

from typing import Any, Protocol

from rlvr.weights.source import ShardedWeightSource

BACKENDS = ("nccl", "ipc", "shm")


class WeightSender(Protocol):
    """Every learner rank has one and calls it in step with the others.

    ``concurrent`` senders send while the engines receive (a collective with them), so the
    engines are told beforehand, by ``announce``. The others leave the weights where the engines
    can read them and tell where by what ``send`` returns.
    """

    concurrent: bool

    def announce(self) -> dict[str, Any]:
        """What the engines must know before a concurrent send."""

    def send(self, version: int) -> dict[str, Any]:
        """Send ``version``; returns on rank 0 what the engines must know after it."""

    def release(self) -> None:
        """Free what the send left for the engines."""


def open_sender(
    backend: str, source: ShardedWeightSource, rank: int, options: dict[str, Any]
) -> WeightSender:
    """The sender of ``backend``. ``options`` are its rendezvous (nccl: address, port, size)."""
    if backend == "shm":
        from rlvr.weights.shm import SharedMemorySender

        return SharedMemorySender(source, rank)
    from rlvr.weights.gpu import IpcSender, NcclSender

    return NcclSender(source, rank, **options) if backend == "nccl" else IpcSender(source, rank)
