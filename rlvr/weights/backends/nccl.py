"""``nccl``: rank 0 broadcasts to engines on GPUs of their own."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

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
        unchecked: Any = _Fenced(source)  # vLLM asks for its methods, not for its base class
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

    def send(self, version: int) -> Iterator[dict[str, Any]]:
        self._engine.send_weights()
        self._client.updates.clear()
        yield {}


class _Fenced:
    """A source whose tensors can be read and let go on any CUDA stream.

    vLLM packs them on two streams in turn, and a layer that is gathered on one may be packed on
    the other.
    """

    def __init__(self, source: ShardedWeightSource) -> None:
        self._source = source
        self.metadata = source.metadata

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for named in self._source:
            torch.cuda.synchronize()  # it is whole
            yield named
            torch.cuda.synchronize()  # it has been read
