"""What a checkpoint of adapters becomes: the model with them merged, or PEFT's own folder."""

from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoConfig

from rlvr.config import LoraConfig, ModelConfig
from rlvr.errors import ConfigError
from rlvr.learner.lora import PARTS, merged, peft_config
from rlvr.learner.model_folder import empty_model
from rlvr.learner.sharded_state import bit_sum
from rlvr.learner.state_files import StateFiles
from rlvr.learner.weight_files import WeightFiles


class MergedWeights:
    """The weights of ``model`` with a checkpoint's adapters, as the run published them.

    Raises ConfigError if the model is not there.
    """

    def __init__(self, state: StateFiles, lora: LoraConfig, model: ModelConfig) -> None:
        self._scale, self._model, self._frozen = lora.alpha / lora.rank, model, state.shared.frozen
        trust = model.trust_remote_code
        try:
            config = AutoConfig.from_pretrained(model.path, trust_remote_code=trust)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"model.path={model.path}: the checkpoint holds adapters alone, and the model that "
                f"they were trained on is not here: {error}. Bring it back, or write the adapters "
                "with --adapter."
            ) from error
        network = empty_model(config, trust_remote_code=trust)
        self._files = WeightFiles(model.path)
        self._source = self._files.sources(network)
        self.shapes = {name: list(p.shape) for name, p in network.named_parameters()}
        self._adapters = state.weights(state.shapes)
        self._sum = 0

    def weights(self, names: Iterable[str]) -> dict[str, Tensor]:
        """These weights, whole, in the model's type."""
        dtype = getattr(torch, self._model.dtype)
        found = {}
        for name in names:
            weight = self._files.read(self._source[name]).to(dtype)
            parts = [f"{name.removesuffix('weight')}{part}" for part in PARTS]
            found[name] = weight
            if parts[0] in self._adapters:
                a, b = (self._adapters[part] for part in parts)
                found[name] = merged(weight, a, b, self._scale)
            self._sum += bit_sum([weight], weight.device)
        return found

    def check(self) -> None:
        """After all weights were read: raises ConfigError if they are another model's."""
        if (self._sum - self._frozen) % 2**64:  # as the sum on a machine wraps
            raise ConfigError(
                f"model.path={self._model.path}: its weights are not those that the checkpoint's "
                "adapters were trained on. Bring those back, or write the adapters with --adapter."
            )


def write_adapter(state: StateFiles, lora: LoraConfig, model: ModelConfig, folder: Path) -> None:
    """Write what ``PeftModel.from_pretrained`` loads: the adapters as they are, float32."""
    names = list(state.shapes)
    layers = {name.rpartition(f".{PARTS[0]}")[0]: None for name in names if PARTS[0] in name}
    config = peft_config(lora, layers)
    config.base_model_name_or_path, config.inference_mode = model.path, True
    config.save_pretrained(folder)
    tensors = {
        f"base_model.model.{name.replace('.default.', '.')}": tensor
        for name, tensor in state.weights(names).items()
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
