"""``ipc``: engines open the memory of the learner ranks whose GPUs they share."""

from typing import Any

from rlvr.config import ClusterConfig
from rlvr.weights.base import WEIGHT_BACKENDS, Meeting, WeightBackend
from rlvr.weights.source import ShardedWeightSource
from rlvr.weights.vllm_trainer import ListeningClient


@WEIGHT_BACKENDS.register("ipc")
class IpcBackend(WeightBackend):
    """Exports CUDA IPC handles of gathered copies; the engines on the same GPUs open them."""

    concurrent = False

    def __init__(self, source: ShardedWeightSource, rank: int, meeting: Meeting) -> None:
        from vllm.distributed.weight_transfer.ipc_engine import (
            IPCTrainerInitInfo,
            IPCTrainerWeightTransferEngine,
        )

        super().__init__(source, rank, meeting)
        self._client = ListeningClient()
        unchecked: Any = source  # vLLM asks for its methods, not for its base class
        self._engine = IPCTrainerWeightTransferEngine.trainer_init(
            IPCTrainerInitInfo(rank=rank), client=self._client, source=unchecked
        )
        self._exported: Any = None  # what the handles point at, until the engines have read it

    @staticmethod
    def refusal(cluster: ClusterConfig) -> str | None:
        """A handle opens on the GPU that it comes from."""
        if cluster.gpus == 0:
            return "needs GPUs; use auto"
        if cluster.placement != "colocated":
            return "needs cluster.placement=colocated"
        return None

    @classmethod
    def engine_init_info(cls, meeting: Meeting, first_rank: int) -> dict[str, Any]:
        """Every parameter has a handle of its own."""
        return {"packed": False}

    def send(self, version: int) -> dict[str, Any]:
        """Export one handle per parameter; rank 0 returns those of all ranks."""
        self._exported = [
            (name, tensor.clone()) for name, tensor in self.source
        ]  # a gathered tensor is freed when its layer ends; the export must outlive that
        self._engine._send_unpacked(self._exported)
        return self._client.updates.pop() if self._client.updates else {}

    def release(self) -> None:
        self._exported = None
