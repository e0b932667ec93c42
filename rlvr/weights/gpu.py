"""Learner side of vLLM's GPU backends: ``nccl`` (separate GPUs) and ``ipc`` (shared GPUs).

vLLM's trainer engines make the control calls to the inference side themselves, on a thread
whose error nobody sees while the collective waits. Here the driver makes those calls (see
``rlvr.weights.publish``), where their errors and their time-out surface; the trainer engines get
a client that does nothing but listen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rlvr.weights.source import ShardedWeightSource


@dataclass
class ListeningClient:
    """vLLM's ``VLLMWeightSyncClient`` without an engine behind it: keeps what it is told."""

    updates: list[Any] = field(default_factory=list)

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """The driver initialises the engines."""

    def start_weight_update(self) -> None:
        """The driver starts the update."""

    def update_weights(self, update_info: dict[str, Any] | list[dict[str, Any]]) -> None:
        """Keep the update for the driver to deliver."""
        self.updates.append(update_info)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """The driver finishes the update."""


class NcclSender:
    """Broadcasts packed tensors from rank 0 to all engines while they receive."""

    concurrent = True

    def __init__(
        self, source: ShardedWeightSource, rank: int, *, address: str, port: int, world_size: int
    ) -> None:
        from vllm.distributed.weight_transfer.nccl_engine import (
            NCCLTrainerInitInfo,
            NCCLTrainerWeightTransferEngine,
        )

        self._source = source
        self._client = ListeningClient()
        self._engine = NCCLTrainerWeightTransferEngine.trainer_init(
            NCCLTrainerInitInfo(address, port, world_size, rank=rank),
            client=self._client,
            source=_as_vllm(source),
        )

    def announce(self) -> dict[str, Any]:
        """Names, dtypes and shapes: the engines cut the packed stream by them."""
        meta = self._source.metadata()
        return {
            "names": [m.name for m in meta],
            "dtype_names": [str(m.dtype).removeprefix("torch.") for m in meta],
            "shapes": [list(m.shape) for m in meta],
        }

    def send(self, version: int) -> dict[str, Any]:
        """Broadcast; returns when every byte has left."""
        self._engine.send_weights()
        self._client.updates.clear()
        return {}

    def release(self) -> None:
        """Nothing outlives the broadcast."""


class IpcSender:
    """Exports CUDA IPC handles of gathered copies; the engines on the same GPUs open them."""

    concurrent = False

    def __init__(self, source: ShardedWeightSource, rank: int) -> None:
        from vllm.distributed.weight_transfer.ipc_engine import (
            IPCTrainerInitInfo,
            IPCTrainerWeightTransferEngine,
        )

        self._client = ListeningClient()
        self._source = source
        self._engine = IPCTrainerWeightTransferEngine.trainer_init(
            IPCTrainerInitInfo(rank=rank), client=self._client, source=_as_vllm(source)
        )
        self._kept: Any = None  # what the handles point at, until the engines have read it

    def announce(self) -> dict[str, Any]:
        """Nothing: the engines are told after the send."""
        return {}

    def send(self, version: int) -> dict[str, Any]:
        """Export one handle per parameter; rank 0 returns those of all ranks."""
        self._kept = [
            (name, tensor.clone()) for name, tensor in self._source
        ]  # a gathered tensor is freed when its layer ends; the export must outlive that
        self._engine._send_unpacked(self._kept)
        return self._client.updates.pop() if self._client.updates else {}

    def release(self) -> None:
        """Free the exported copies."""
        self._kept = None


def _as_vllm(source: ShardedWeightSource) -> Any:
    """vLLM reads ``metadata()`` and iterates; it does not ask for its own base class."""
    return source
