"""Where training prompts come from, and how often each source is drawn from."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlvr.errors import ConfigError


@dataclass(frozen=True)
class Source:
    """Files that are drawn from without replacement, ``weight`` times as often as at weight 1."""

    files: Sequence[str]
    weight: float = 1.0


def sources(train: Any) -> dict[str, Source]:
    """``data.train`` by name: a list of files is one source, which has no name.

    Raises ConfigError for what is neither that nor ``{name: {path: ..., weight: ...}, ...}``.
    """
    if isinstance(train, Mapping):
        return {str(name): _source(str(name), node) for name, node in train.items()}
    return {"": Source(_files(train, "data.train"))}


def files(train: Any) -> list[str]:
    """All files of ``data.train``."""
    return [file for source in sources(train).values() for file in source.files]


def _source(name: str, node: Any) -> Source:
    where = f"data.train.{name}"
    if not isinstance(node, Mapping):
        raise ConfigError(f"{where}: must be {{path: FILE, weight: NUMBER}}, not {node!r}")
    for key in node:
        if key not in ("path", "weight"):
            raise ConfigError(f"{where}.{key}: no such key. Valid: path, weight.")
    weight = node.get("weight", 1.0)
    if not isinstance(weight, int | float) or not 0 < weight < math.inf:
        raise ConfigError(f"{where}.weight={weight}: must be a number above 0")
    return Source(_files(node.get("path"), f"{where}.path"), float(weight))


def _files(value: Any, where: str) -> list[str]:
    files = [value] if isinstance(value, str) else value
    if not isinstance(files, Sequence) or not all(isinstance(file, str) for file in files):
        raise ConfigError(f"{where}: must be a file or a list of files, not {value!r}")
    return list(files)
