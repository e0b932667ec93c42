"""The entry point that vLLM calls in each of its processes (``vllm.general_plugins``)."""

from __future__ import annotations


def register() -> None:
    """Make ``WeightTransferConfig(backend="shm")`` known to vLLM. Safe to call twice."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    if "shm" not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(
            "shm", "rlvr.weights.shm_engine", "SharedMemoryWeightTransferEngine"
        )
