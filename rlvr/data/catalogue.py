"""Files of data that have names: what ``conf/catalogue.yaml`` says of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from rlvr.choice import nearest
from rlvr.config import DataConfig
from rlvr.errors import ConfigError

CATALOGUE = Path(__file__).parents[1] / "conf" / "catalogue.yaml"
FOLDER = "data"  # where recipes look for their files


@dataclass(frozen=True)
class Entry:
    """Where a file comes from, and what of it is kept."""

    sources: list[str]
    columns: list[str] = field(default_factory=list)  # empty: all
    where: Mapping[str, list[Any]] = field(default_factory=dict)


def catalogue(path: Path = CATALOGUE) -> dict[str, Entry]:
    """The entries by the name of their file. Raises ConfigError for one that is none."""
    try:
        nodes = yaml.safe_load(path.read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    entries = {}
    for name, node in nodes.items():
        if not isinstance(node, dict) or "from" not in node:
            raise ConfigError(f"{path}: {name} must have 'from', an address")
        for key in node:
            if key not in (known := ["from", "columns", "where"]):
                raise ConfigError(f"{path}: {name}.{key}: no such key. {nearest(key, known)}")
        sources = [node["from"]] if isinstance(node["from"], str) else list(node["from"])
        entries[name] = Entry(sources, node.get("columns", []), node.get("where", {}))
    return entries


def with_files(data: DataConfig, path: Path = CATALOGUE) -> DataConfig:
    """``data`` with ``aime24``, and other names of the catalogue, as the files they stand for."""
    files = {Path(name).stem: f"{FOLDER}/{name}" for name in catalogue(path)}
    return replace(data, train=_named(data.train, files), eval=_named(data.eval, files))


def unknown_name(file: str) -> str | None:
    """What to say of a file that looks like a name, and is none of the catalogue; else None."""
    if "/" in file or Path(file).suffix in (".jsonl", ".parquet"):
        return None
    return f"nor a name of the catalogue. {nearest(file, [Path(n).stem for n in catalogue()])}"


def _named(node: Any, files: Mapping[str, str]) -> Any:
    """``data.train`` or ``data.eval``, whatever was given, with the files that words stand for."""
    if isinstance(node, str):
        return files.get(node, node)
    if isinstance(node, Mapping):
        return {key: _named(value, files) for key, value in node.items()}
    return [_named(value, files) for value in node] if isinstance(node, list) else node
