"""What is wrong with the files and folders that a configuration names, before anything starts."""

from pathlib import Path
from typing import Any

from rlvr.config import ModelConfig, RunConfig
from rlvr.data.catalogue import catalogue, unknown_name
from rlvr.data.sources import files
from rlvr.errors import ConfigError
from rlvr.storage import Folder


def named_files(config: RunConfig) -> list[str]:
    """Complaints, each with its key."""
    train = files(config.data.train)
    named = {"data.train": train, "data.eval": config.data.eval}
    told = [
        f"{key}: no such file: {file}{_remedy(key, file)}"
        for key, own in named.items()
        for file in own
        if not Path(file).expanduser().is_file()
    ]
    if len(train) > len({*train}):
        told.append("data.train names a file twice; give its source more weight instead")
    return [*told, *_places(config), *_model(config)]


def _remedy(key: str, file: str) -> str:
    if Path(file).name in catalogue():
        return f". Fetch it: rlvr prepare '{key}=[{file}]'"
    told = unknown_name(file)
    return f", {told}" if told else ""


def _places(config: RunConfig) -> list[str]:
    """Of checkpoints, those that fsspec has no name or no package for."""
    told = []
    train = config.train
    for key, place in (("checkpoint_dir", train.checkpoint_dir), ("resume", train.resume)):
        try:
            Folder.at(place or ".")
        except (ImportError, ValueError) as error:
            told.append(f"train.{key}={place}: {error}")
    return told


def _model(config: RunConfig) -> list[str]:
    path = config.model.path
    if not path:
        return ["model.path: must be a folder, or a name of the hub"]
    if not path.startswith((".", "/", "~", "outputs/")):
        return [*_heads(config), *_adapters(config)]
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return [f"model.path: no such folder: {path}"]
    return [*damaged_weights(folder), *_heads(config), *_adapters(config)]


def damaged_weights(folder: Path) -> list[str]:
    """Files of weights that are cut off or no safetensors; only their heads are read."""
    from safetensors import SafetensorError, safe_open

    damaged = []
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="numpy"):
                pass
        except (OSError, SafetensorError) as error:
            damaged.append(f"model.path: {file} is damaged: {error}. Fetch or save it again")
    return damaged


def _heads(config: RunConfig) -> list[str]:
    """Sequence-parallel ranks divide the heads of attention among them."""
    size = config.learner.sequence_parallel
    if size == 1:
        return []
    if (model := _described(config.model)) is None:
        return []
    heads = model.num_attention_heads
    key_heads = getattr(model, "num_key_value_heads", None) or heads
    if heads % size == 0 and (key_heads % size == 0 or size % key_heads == 0):
        return []
    return [
        f"learner.sequence_parallel={size} does not divide the attention heads of "
        f"{config.model.path}: {heads}, with {key_heads} for keys and values"
    ]


def _adapters(config: RunConfig) -> list[str]:
    """Layers that are to have adapters, and are not there."""
    lora = config.learner.lora
    if not lora.rank or (model := _described(config.model)) is None:
        return []
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    from rlvr.learner.lora import linear_layers, targets_of
    from rlvr.learner.model_folder import empty_model

    if get_checkpoint_conversion_mapping(model.model_type) is not None:
        return [
            f"learner.lora.rank={lora.rank}: the files of a {model.model_type} name its weights "
            "otherwise than the model does, and its experts are no linear layers; train all of its "
            "weights (learner.lora.rank=0)"
        ]
    try:
        network = empty_model(model, trust_remote_code=config.model.trust_remote_code)
        targets_of(linear_layers(network), lora)
    except ConfigError as error:
        return [str(error)]
    return []


def _described(model: ModelConfig) -> Any:
    """Its configuration; None if it has none: whoever loads the model says what is wrong."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(model.path, trust_remote_code=model.trust_remote_code)
    except (OSError, ValueError):
        return None
