"""The entry point that vLLM calls in each of its processes (``vllm.general_plugins``)."""


def register() -> None:
    """Make the backends that vLLM does not have itself known to it. Safe to call twice."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    from rlvr.weights.base import WEIGHT_BACKENDS, backend_class

    for name in WEIGHT_BACKENDS.names():
        engine = backend_class(name).engine
        if engine is not None and name not in WeightTransferEngineFactory._registry:
            WeightTransferEngineFactory.register_engine(name, *engine.split(":"))
