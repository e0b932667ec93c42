"""``nccl``: rank 0 broadcasts to engines on GPUs of their own."""

from typing import Any

from rlvr.config import ClusterConfig
from rlvr.weights.base import WEIGHT_BACKENDS, Meeting, WeightBackend
from rlvr.weights.source import ShardedWeightSource
from rlvr.weights.vllm_trainer import ListeningClient


@WEIGHT_BACKENDS.register("nccl")
class NcclBackend(WeightBackend):
    """Broadcasts packed tensors from rank 0 to all engines while they receive."""

    concurrent = True

    def __init__(self, source: ShardedWeightSource, rank: int, meeting: Meeting) -> None:
        from vllm.distributed.weight_transfer.nccl_engine import (
            NCCLTrainerInitInfo,
            NCCLTrainerWeightTransferEngine,
        )

        super().__init__(source, rank, meeting)
        self._client = ListeningClient()
        unchecked: Any = source  # vLLM asks for its methods, not for its base class
        self._engine = NCCLTrainerWeightTransferEngine.trainer_init(
            NCCLTrainerInitInfo(meeting.address, meeting.port, meeting.size, rank=rank),
            client=self._client,
            source=unchecked,
        )

    @staticmethod
    def refusal(cluster: ClusterConfig) -> str | None:
        """NCCL takes no two members of a group on one GPU."""
        if cluster.gpus == 0:
            return "needs GPUs; use auto"
        if cluster.placement == "colocated":
            return "needs cluster.placement=disaggregated; use ipc or auto"
        return None

    @classmethod
    def engine_init_info(cls, meeting: Meeting, first_rank: int) -> dict[str, Any]:
        """Where to meet, and the place of this engine in the group."""
        return {
            "master_address": meeting.address,
            "master_port": meeting.port,
            "world_size": meeting.size,
            "rank_offset": first_rank,
            "packed": True,
        }

    def announce(self) -> dict[str, Any]:
        """The engines cut the packed stream by names, dtypes and shapes."""
        return self.described()

    def send(self, version: int) -> dict[str, Any]:
        self._engine.send_weights()
        self._client.updates.clear()
        return {}
