"""The policy as vLLM has it when adapters alone are published: its LoRA, of one adapter."""

import json
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
from safetensors.numpy import save_file

from rlvr.config import LoraConfig

_NAME, _NUMBER = "policy", 1


class Adapters:
    """A version is its adapters, in a folder of PEFT's kind that vLLM reads.

    Requests name the adapter, so that those under way go on with the next version of it.
    """

    def __init__(self, lora: LoraConfig) -> None:
        self._lora = lora

    @cached_property
    def _folder(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="rlvr-adapters-")

    def engine_arguments(self) -> dict[str, Any]:
        """Room for one adapter."""
        from vllm.config.lora import MaxLoRARanks

        least = min(rank for rank in get_args(MaxLoRARanks) if rank >= self._lora.rank)
        return {"enable_lora": True, "max_loras": 1, "max_lora_rank": least}

    @property
    def request(self) -> Any:
        """What goes with a request for a response."""
        return self._request(load_inplace=False)

    def begin(self, engine: Any, info: dict[str, Any]) -> None:
        """Nothing is to be arranged."""

    def load(self, engine: Any, info: dict[str, Any], first: bool) -> None:
        self._write(info["adapters"][0])

    def finish(self, engine: Any) -> None:
        engine.add_lora(self._request(load_inplace=True))  # it reads the folder again

    def _write(self, layers: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
        """Put a version's A and B, by layer, in the place of those before."""
        folder = Path(self._folder.name)
        lora = self._lora
        told: dict[str, Any] = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none"}
        told |= {"r": lora.rank, "lora_alpha": lora.alpha, "target_modules": sorted(layers)}
        (folder / "adapter_config.json").write_text(json.dumps(told))
        tensors = {
            f"base_model.model.{layer}.lora_{part}.weight": np.ascontiguousarray(x)
            for layer, own in layers.items()
            for part, x in zip("AB", own, strict=True)
        }
        save_file(tensors, folder / "adapter_model.safetensors")

    def _request(self, load_inplace: bool) -> Any:
        from vllm.lora.request import LoRARequest

        return LoRARequest(_NAME, _NUMBER, self._folder.name, load_inplace=load_inplace)
