"""``ipc``: engines open the memory of the learner ranks whose GPUs they share."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from rlvr.config import ClusterConfig
from rlvr.weights.base import WEIGHT_BACKENDS, Meeting, WeightBackend
from rlvr.weights.source import ShardedWeightSource
from rlvr.weights.vllm_trainer import ListeningClient

_BUFFER = 2**30  # bytes; a larger parameter has a buffer of its size


@WEIGHT_BACKENDS.register("ipc")
class IpcBackend(WeightBackend):
    """Shares one buffer on each GPU by its CUDA IPC handle with the engine on the same GPU."""

    concurrent = False

    def __init__(self, source: ShardedWeightSource, rank: int, meeting: Meeting) -> None:
        from vllm.distributed.weight_transfer.ipc_engine import (
            IPCTrainerInitInfo,
            IPCTrainerWeightTransferEngine,
        )

        super().__init__(source, rank, meeting)
        unchecked: Any = source  # vLLM asks for its methods, not for its base class
        self._engine = IPCTrainerWeightTransferEngine.trainer_init(
            IPCTrainerInitInfo(rank=rank, packed=True), client=ListeningClient(), source=unchecked
        )

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
        """Many parameters lie packed in one buffer."""
        return {"packed": True}

    def send(self, version: int) -> Iterator[dict[str, Any]]:
        """Fill one buffer again and again; rank 0 yields the handles of all ranks' buffers."""
        from vllm.distributed.weight_transfer.packed_tensor import packed_ipc_producer

        chunks = packed_ipc_producer(
            iter(self.source),
            gpu_uuid=self._engine.gpu_uuid,
            post_iter_func=lambda named: named[1],
            buffer_size_bytes=max(_BUFFER, *(m.nbytes for m in self.source.metadata())),
        )
        with _fixed_segments():  # the buffer is made with the first chunk
            chunk = next(chunks, None)
        while chunk is not None:
            [handles] = self._engine._all_gather_and_merge_handles([chunk.ipc_handle])
            yield {
                "names": chunk.names,
                "dtype_names": chunk.dtype_names,
                "shapes": chunk.shapes,
                "tensor_sizes": chunk.tensor_sizes,
                "ipc_handles": handles,
            }
            chunk = next(chunks, None)

    def release(self) -> None:
        """Give the buffer, and what gathering left behind, back to the GPU."""
        gc.collect()
        torch.cuda.ipc_collect()
        torch.cuda.empty_cache()


@contextmanager
def _fixed_segments() -> Iterator[None]:
    """Memory that another process can open, which that of expandable segments may not be."""
    from vllm.device_allocator.alloc_conf import current_alloc_conf, set_alloc_conf, with_conf_flag

    before = current_alloc_conf()
    set_alloc_conf(with_conf_flag(before, "expandable_segments", False))
    try:
        yield
    finally:
        set_alloc_conf(before)
