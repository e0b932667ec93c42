"""A checkpoint: a folder on a disk or in a store, which is one once it has its manifest."""

import json
import sys
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from omegaconf import OmegaConf

from rlvr.config import RunConfig
from rlvr.errors import ConfigError, RunFolderError
from rlvr.storage import FileSum, Folder

_FORMAT = 2
MANIFEST = "manifest.json"
_PACKAGES = ("rlvr", "torch", "deepspeed", "transformers", "peft", "vllm")
# Without these the state says nothing: the moments are another optimizer's, the adapters those of
# other layers. Other models and other data are found out by the shapes of the parameters and the
# ids of the prompts.
_FIXED = ("learner.optimizer", "learner.lora.rank", "learner.lora.alpha", "learner.lora.targets")
_EXPECTED_TO_CHANGE = ("train.resume", "train.output_dir", "train.checkpoint_dir")


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint."""

    folder: Folder
    step: int  # steps that were made
    state: dict[str, Any]  # of the driver
    configuration: dict[str, Any]

    @property
    def learner(self) -> Folder:
        """What the ranks wrote."""
        return self.folder / "learner"

    @classmethod
    def read(cls, folder: Folder) -> "Checkpoint":
        """Raises RunFolderError that says what is missing, damaged or of another version."""
        where = folder / MANIFEST
        try:
            manifest = json.loads(folder.read(MANIFEST))
            if manifest["format"] != _FORMAT:
                raise ValueError(f"format {manifest['format']}, this version reads {_FORMAT}")
            if manifest.pop("crc32") != _crc(manifest):
                raise ValueError("its checksum is another")
            files = {name: FileSum(*known) for name, known in manifest["files"].items()}
            found = cls(folder, manifest["step"], manifest["state"], manifest["configuration"])
        except OSError as error:
            raise RunFolderError(f"{where}: {error.strerror or error}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RunFolderError(f"{where} is damaged: {error!r}") from error
        with ThreadPoolExecutor() as readers:
            compared = [readers.submit(_difference, folder, *known) for known in files.items()]
            for difference in [future.result() for future in compared]:
                if difference:
                    raise RunFolderError(difference)
        return found

    def changes(self, config: RunConfig) -> dict[str, tuple[Any, Any]]:
        """What ``config`` has otherwise, by key: before and after.

        Raises ConfigError for a key on which the state depends.
        """
        before, after = _flat(self.configuration), _flat(configuration(config))
        keys = [k for k in before | after if before.get(k) != after.get(k)]
        for key in keys:
            if key in _FIXED and key in before:
                raise ConfigError(
                    f"{key}={after.get(key)}: the run cannot resume with it, the state in "
                    f"{self.folder} is that of {before.get(key)}. Set it back, or start a new run."
                )
        shown = [key for key in keys if key not in _EXPECTED_TO_CHANGE]
        return {key: (before.get(key), after.get(key)) for key in shown}


def write_manifest(
    folder: Folder,
    step: int,
    state: Mapping[str, Any],
    config: RunConfig,
    files: Mapping[str, FileSum],
) -> None:
    """Make the ``files``, by their names from ``folder``, a checkpoint. Raises OSError."""
    manifest = {
        "format": _FORMAT,
        "versions": dict(_versions()),
        "step": step,
        "state": state,
        "configuration": configuration(config),
        "files": files,
    }
    manifest["crc32"] = _crc(manifest)
    folder.write(MANIFEST, [json.dumps(manifest, indent=1).encode()])


def configuration(config: RunConfig) -> dict[str, Any]:
    """As plain values, without what no state depends on and what may hold keys of services."""
    node: Any = OmegaConf.structured(replace(config))
    plain = OmegaConf.to_container(node, enum_to_str=True)
    assert isinstance(plain, dict)
    plain.pop("telemetry")
    return {str(key): value for key, value in plain.items()}


def _flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Its leaves by dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            leaves |= _flat(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves


def _crc(manifest: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(manifest).encode()):08x}"


def _difference(folder: Folder, name: str, known: FileSum) -> str | None:
    """What is wrong with a file of the manifest."""
    file = folder / name
    try:
        found = folder.sum(name)
        if found.bytes != known.bytes:
            return f"{file} has {found.bytes} bytes instead of {known.bytes}"
        return None if found == known else f"{file} is damaged: its checksum is another"
    except OSError as error:
        return f"{file}: {error.strerror or error}"


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", sys.version.split()[0]
    for name in _PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:  # on a CPU vLLM has another name
            continue
