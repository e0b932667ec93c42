"""An ordinary Hugging Face folder, made of a model's description and a checkpoint's weights."""

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from rlvr.config import ModelConfig

SHARD = 5 * 10**9  # bytes of a file


def describe(model: ModelConfig, folder: Path) -> None:
    """Write all of the folder but the weights: configuration and tokenizer."""
    config = AutoConfig.from_pretrained(model.path, trust_remote_code=model.trust_remote_code)
    config.dtype = model.dtype
    config.save_pretrained(folder)
    with suppress(OSError):  # not every model has one
        GenerationConfig.from_pretrained(model.path).save_pretrained(folder)
    tokenizer = model.tokenizer or model.path
    AutoTokenizer.from_pretrained(
        tokenizer, trust_remote_code=model.trust_remote_code
    ).save_pretrained(folder)


def empty_model(config: PretrainedConfig, **arguments: Any) -> PreTrainedModel:
    """The model of ``config`` on the meta device: shapes without memory."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, **arguments)


@runtime_checkable
class Weights(Protocol):
    """Weights by name, whole when they are asked for."""

    @property
    def shapes(self) -> dict[str, list[int]]:
        """Of all of them."""

    def weights(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Some of them."""


def write_weights(state: Weights, dtype: torch.dtype, folder: Path, shard: int = SHARD) -> None:
    """Write the weights beside a description, file by file; no more than one is in memory."""
    kind = json.loads((folder / "config.json").read_text()).get("model_type", "")
    if get_checkpoint_conversion_mapping(kind) is not None:
        _write_converted(state, dtype, folder)
        return
    shards = list(_shards(state.shapes, shard // dtype.itemsize))
    places: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        if len(shards) == 1:
            file = SAFE_WEIGHTS_NAME
        weights = {name: w.to(dtype) for name, w in state.weights(names).items()}
        save_file(weights, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(names, file)
    if len(shards) > 1:
        size = sum(map(prod, state.shapes.values())) * dtype.itemsize
        index = {"metadata": {"total_size": size}, "weight_map": places}
        (folder / SAFE_WEIGHTS_INDEX_NAME).write_text(json.dumps(index, indent=2))


def _write_converted(state: Weights, dtype: torch.dtype, folder: Path) -> None:
    """Of a model whose files name the weights otherwise, which transformers converts whole."""
    network = empty_model(AutoConfig.from_pretrained(folder), dtype=dtype)
    weights = {n: w.to(dtype) for n, w in state.weights(state.shapes).items()}
    network.save_pretrained(folder, state_dict=weights)


def _shards(shapes: dict[str, list[int]], most: int) -> Iterator[list[str]]:
    """The names of each file, whose tensors have no more than ``most`` elements or are one."""
    names: list[str] = []
    elements = 0
    for name, shape in shapes.items():
        if names and elements + prod(shape) > most:
            yield names
            names, elements = [], 0
        names.append(name)
        elements += prod(shape)
    yield names
