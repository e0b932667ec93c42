"""The policy as vLLM has it when all weights are published."""

from typing import Any


class WholeWeights:
    """A version is all weights; vLLM's weight transfer loads them in parts."""

    request = None  # nothing goes with a request for a response

    def __init__(self, backend: str) -> None:
        self._backend = backend

    def engine_arguments(self) -> dict[str, Any]:
        from vllm.config import WeightTransferConfig

        return {"weight_transfer_config": WeightTransferConfig(backend=self._backend)}

    def begin(self, engine: Any, info: dict[str, Any]) -> None:
        engine.collective_rpc("init_weight_transfer_engine", args=(info,))

    def load(self, engine: Any, info: dict[str, Any], first: bool) -> None:
        if first:
            # On GPUs vLLM schedules ahead: a batch in flight must have read the old weights.
            engine.collective_rpc("synchronize_device")
            engine.collective_rpc("start_weight_update")
        engine.collective_rpc("update_weights", args=(info,))

    def finish(self, engine: Any) -> None:
        engine.collective_rpc("finish_weight_update")
