"""Checkpoints: a folder each, on a disk or in a store, which is one once it has its manifest."""

import json
import re
import sys
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from omegaconf import OmegaConf

from rlvr.config import ModelConfig, RunConfig
from rlvr.errors import ConfigError, RunError, RunFolderError
from rlvr.learner.model_folder import describe
from rlvr.storage import FileSum, Folder
from rlvr.telemetry.run_folder import RunFolder

_FORMAT = 2
_MANIFEST = "manifest.json"
_NAME = re.compile(r"step_(\d{6,})")
_PACKAGES = ("rlvr", "torch", "deepspeed", "transformers", "vllm")
# Without these the state says nothing: the moments are another optimizer's. Other models and
# other data are found out by the shapes of the parameters and the ids of the prompts.
_FIXED = ("learner.optimizer",)
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
        where = folder / _MANIFEST
        try:
            manifest = json.loads(folder.read(_MANIFEST))
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
            if key in _FIXED:
                raise ConfigError(
                    f"{key}={after.get(key)}: the run cannot resume with it, the state in "
                    f"{self.folder} is that of {before.get(key)}. Set it back, or start a new run."
                )
        shown = [key for key in keys if key not in _EXPECTED_TO_CHANGE]
        return {key: (before.get(key), after.get(key)) for key in shown}


class Checkpoints:
    """The checkpoints of a run, ``step_*`` in one folder. All calls block."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    @classmethod
    def of(cls, config: RunConfig) -> "Checkpoints":
        """Those of ``train.checkpoint_dir``, by default in ``train.output_dir``."""
        own = RunFolder(config.train.output_dir).checkpoints
        return cls(Folder.at(config.train.checkpoint_dir or str(own)))

    def prepare(self, new: bool) -> None:
        """Raises RunFolderError if none can be written, or a ``new`` run would find another's."""
        if new and self._names():
            raise RunFolderError(
                f"{self.folder} already holds the checkpoints of a run. Choose another folder, or "
                "continue that run with train.resume=auto."
            )
        try:
            self.folder.create()
            probe = self.folder / "probe"
            probe.create()
            probe.write("probe", [b"1"])
            probe.remove()
        except OSError as error:
            raise RunFolderError(f"{self.folder}: no checkpoint can be written: {error}") from error

    def newest_whole(self) -> Checkpoint | None:
        """The newest that is whole; says of those after it what is wrong with them.

        None if there never was one. Raises RunFolderError if there is none left.
        """
        for name, finished in self._names().items():
            if not finished:
                told = f"{self.folder / name} was not finished and is left out."
                print(f"checkpoints: {told}", flush=True)
        reasons = []
        for step in reversed(self.steps):
            try:
                return Checkpoint.read(self._at(step))
            except RunFolderError as error:
                reasons.append(str(error))
                print(f"checkpoints: {self._at(step).name} is left out. {error}", flush=True)
        if reasons:
            raise RunFolderError(f"no checkpoint in {self.folder} is whole:\n" + "\n".join(reasons))
        return None

    def begin(self, step: int) -> Folder:
        """An empty folder for the files of a checkpoint, which is not one yet.

        Raises RunError if there can be none.
        """
        folder = self._at(step)
        with _writing(folder):
            for name, finished in self._names().items():
                if not finished or name == folder.name:
                    (self.folder / name).remove(first=_MANIFEST)
            (folder / "learner").create()
            (folder / "model").create()
        return folder

    def finish(
        self,
        folder: Folder,
        step: int,
        state: Mapping[str, Any],
        config: RunConfig,
        files: Mapping[str, FileSum],
    ) -> None:
        """Write the manifest of its ``files``, by their names from ``folder``: now it is one.

        Raises RunError if that cannot be written, or the files are not here.
        """
        manifest = {
            "format": _FORMAT,
            "versions": dict(_versions()),
            "step": step,
            "state": state,
            "configuration": configuration(config),
            "files": files,
        }
        manifest["crc32"] = _crc(manifest)
        with _writing(folder):
            here = folder.sizes()
            for name, known in files.items():
                if here.get(name) != known.bytes:
                    raise RunError(
                        f"{folder / name} was written, but it does not arrive here. Checkpoints "
                        "need a place that all nodes share: set train.output_dir or "
                        "train.checkpoint_dir to one."
                    )
            folder.write(_MANIFEST, [json.dumps(manifest, indent=1).encode()])

    def describe(self, folder: Folder, model: ModelConfig) -> dict[str, FileSum]:
        """Write all of the model but its weights; the sums of the files. Raises RunError."""
        with TemporaryDirectory() as local, _writing(folder):
            describe(model, Path(local))
            contents = {path.name: path.read_bytes() for path in sorted(Path(local).iterdir())}
            write = (folder / "model").write
            return {f"model/{name}": write(name, [text]) for name, text in contents.items()}

    def keep(self, newest: int, best: int | None = None) -> None:
        """Remove all but so many of the newest, and that of step ``best``."""
        for step in self.steps[:-newest]:
            if step != best:
                self._at(step).remove(first=_MANIFEST)

    def forget_after(self, step: int) -> None:
        """Remove what lies after ``step``: it is damaged, and the run will make it again."""
        for later in [known for known in self.steps if known > step]:
            self._at(later).remove(first=_MANIFEST)

    @property
    def steps(self) -> list[int]:
        """Of those that have a manifest, from old to new."""
        return sorted(int(n.removeprefix("step_")) for n, whole in self._names().items() if whole)

    def _at(self, step: int) -> Folder:
        return self.folder / f"step_{step:06d}"

    def _names(self) -> dict[str, bool]:
        """The folders of checkpoints, and whether each has a manifest."""
        names = [name for name in self.folder.folders() if _NAME.fullmatch(name)]
        return {name: (self.folder / name).has(_MANIFEST) for name in names}


def find_checkpoint(where: Folder) -> Checkpoint | None:
    """The checkpoint that ``where`` is, or the newest whole one of the run that it is.

    None if there is none. Raises RunFolderError if what there is is damaged.
    """
    if _NAME.fullmatch(where.name) and where.sizes():
        return Checkpoint.read(where)
    for folder in (where / "checkpoints", where):
        if (found := Checkpoints(folder).newest_whole()) is not None:
            return found
    return None


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


@contextmanager
def _writing(folder: Folder) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"The checkpoint {folder} could not be written: {error}. Make room there, and go on "
            "from the one before it with train.resume=auto."
        ) from error


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", sys.version.split()[0]
    for name in _PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:  # on a CPU vLLM has another name
            continue
