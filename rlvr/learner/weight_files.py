"""The weights of a saved model, read from its safetensors files one tensor at a time."""

import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file
from transformers.utils.hub import get_checkpoint_shard_files

from rlvr.errors import ConfigError
from rlvr.learner.engine import gathered

# What older checkpoints hold beside their weights, and transformers computes by itself.
_COMPUTED = r"rotary_emb\.inv_freq"


class WeightFiles:
    """Where every tensor of a model lies, in one file or in many with an index.

    Args:
        path: the model's folder or hub name.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: dict[str, str] = {}
        self._shape: dict[str, tuple[int, ...]] = {}
        for file in _files(path):
            try:
                with safe_open(file, framework="pt") as opened:
                    for name in opened.keys():
                        self._file[name] = file
                        self._shape[name] = tuple(opened.get_slice(name).get_shape())
            except (OSError, SafetensorError) as error:
                raise ConfigError(f"model.path={path}: cannot read {file}: {error}") from error

    def fill(self, network: nn.Module) -> None:
        """Give the parameters and buffers of ``network`` their values; a collective.

        Shards are filled one parameter at a time: rank 0 reads it, and every rank keeps its part.
        Raises ConfigError if file and model do not hold the same tensors.
        """
        source = self.sources(network)
        reads = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                with gathered([parameter], writer=0):
                    if reads:
                        parameter.copy_(self.read(source[name]))
            for name, buffer in network.named_buffers():
                if name in source:
                    buffer.copy_(self.read(name))

    def read(self, name: str) -> Tensor:
        """The tensor of this name in the files."""
        # Opened anew, because what is mapped and was read counts as this process's memory.
        with safe_open(self._file[name], framework="pt") as opened:
            return opened.get_tensor(name)

    def sources(self, network: nn.Module) -> dict[str, str]:
        """The name in the files of each tensor; of tied ones, the first that is there.

        Raises ConfigError if file and model do not hold the same tensors.
        """
        tensors = network.state_dict(keep_vars=True)
        aliases: dict[int, list[str]] = {}
        for name, tensor in tensors.items():
            aliases.setdefault(id(tensor), []).append(name)
        source = {}
        for name, tensor in tensors.items():
            stored = [alias for alias in aliases[id(tensor)] if alias in self._shape]
            if not stored:
                files = ", ".join(sorted(set(self._file.values())))
                raise self._refused(f"the tensor {name} is in none of its files ({files})")
            shape = tuple(getattr(tensor, "ds_shape", tensor.shape))
            if self._shape[stored[0]] != shape:
                raise self._refused(
                    f"{self._file[stored[0]]} holds {stored[0]} as {list(self._shape[stored[0]])}, "
                    f"but the model's configuration makes it {list(shape)}"
                )
            source[name] = stored[0]
        ignored = [_COMPUTED, *(getattr(network, "_keys_to_ignore_on_load_unexpected", None) or ())]
        for name in self._shape.keys() - tensors.keys():
            if not any(re.search(pattern, name) for pattern in ignored):
                raise self._refused(
                    f"{self._file[name]} holds {name}, which this architecture does not have"
                )
        return source

    def _refused(self, why: str) -> ConfigError:
        return ConfigError(
            f"model.path={self._path}: {why}. Its config.json and its weights belong to different "
            "models, or a file is incomplete; fetch or save the model again."
        )


def _files(path: str) -> list[str]:
    def found(name: str) -> str | None:
        return cached_file(path, name, _raise_exceptions_for_missing_entries=False)

    if single := found(SAFE_WEIGHTS_NAME):
        return [single]
    if index := found(SAFE_WEIGHTS_INDEX_NAME):
        files: list[str] = get_checkpoint_shard_files(path, index)[0]
        if absent := [file for file in files if not Path(file).is_file()]:
            raise ConfigError(f"model.path={path}: {index} names {absent[0]}, which is missing")
        return files
    raise ConfigError(
        f"model.path={path}: no {SAFE_WEIGHTS_NAME} and no {SAFE_WEIGHTS_INDEX_NAME}, from which "
        "the learner's ranks read their shards (learner.zero_stage=3). Save the model with "
        "save_pretrained, or use learner.zero_stage=2."
    )
