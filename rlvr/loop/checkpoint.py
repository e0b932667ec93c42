"""Checkpoints on disk: a folder each, which has its name only when it is whole, and a manifest."""

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rlvr.config import RunConfig
from rlvr.errors import ConfigError, RunError, RunFolderError
from rlvr.learner.state_files import FileSum, checksum, to_disk

_FORMAT = 1
_MANIFEST = "manifest.json"
_PARTIAL = ".partial"
_PACKAGES = ("rlvr", "torch", "deepspeed", "transformers", "vllm")
# Without these the state says nothing: the moments are another optimizer's. Other models and
# other data are found out by the shapes of the parameters and the ids of the prompts.
_FIXED = ("learner.optimizer",)
_EXPECTED_TO_CHANGE = ("train.resume", "train.output_dir")


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint."""

    path: Path
    step: int  # steps that were made
    state: dict[str, Any]  # of the driver
    configuration: dict[str, Any]

    @property
    def learner(self) -> Path:
        """What the ranks wrote."""
        return self.path / "learner"

    @classmethod
    def read(cls, path: Path) -> "Checkpoint":
        """Raises RunFolderError that says what is missing, damaged or of another version."""
        try:
            manifest = json.loads((path / _MANIFEST).read_text())
            if manifest["format"] != _FORMAT:
                raise ValueError(f"format {manifest['format']}, this version reads {_FORMAT}")
            files = {name: FileSum(*known) for name, known in manifest["files"].items()}
            manifest["state"]["stream"], manifest["configuration"]["model"]["dtype"]
            found = cls(
                path, int(manifest["step"]), manifest["state"], dict(manifest["configuration"])
            )
        except OSError as error:
            raise RunFolderError(f"{path / _MANIFEST}: {error.strerror or error}") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RunFolderError(f"{path / _MANIFEST} is damaged: {error!r}") from error
        with ThreadPoolExecutor() as readers:
            compared = (readers.submit(_difference, path / name, s) for name, s in files.items())
            for difference in [future.result() for future in list(compared)]:
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
                    f"{self.path} is that of {before.get(key)}. Set it back, or start a new run."
                )
        shown = [key for key in keys if key not in _EXPECTED_TO_CHANGE]
        return {key: (before.get(key), after.get(key)) for key in shown}


class Checkpoints:
    """The checkpoints of a run, ``checkpoints/step_*``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def newest_whole(self) -> Checkpoint | None:
        """The newest that is whole; says of those after it what is wrong with them.

        None if there never was one. Raises RunFolderError if there is none left.
        """
        for partial in sorted(self.folder.glob(f"step_*{_PARTIAL}")):
            print(f"checkpoints: {partial} was not finished and is left out.", flush=True)
        reasons = []
        for path in reversed(self._whole()):
            try:
                return Checkpoint.read(path)
            except RunFolderError as error:
                reasons.append(str(error))
                print(f"checkpoints: {path.name} is left out. {error}", flush=True)
        if reasons:
            raise RunFolderError(f"no checkpoint in {self.folder} is whole:\n" + "\n".join(reasons))
        return None

    def begin(self, step: int) -> Path:
        """An empty folder for the files of a checkpoint, which is not one yet.

        Raises RunError if there can be none.
        """
        path = self.folder / f"step_{step:06d}{_PARTIAL}"
        with _writing(path):
            for stale in self.folder.glob(f"*{_PARTIAL}"):
                shutil.rmtree(stale)
            (path / "learner").mkdir(parents=True)
        return path

    def finish(
        self,
        partial: Path,
        step: int,
        state: Mapping[str, Any],
        config: RunConfig,
        learner: Mapping[str, FileSum],
    ) -> None:
        """Make it one, with all files that are in it now; of theirs the ranks tell the sums.

        Raises RunError if it cannot be written, or the files are not here.
        """
        written = {f"learner/{name}": known for name, known in learner.items()}
        for name, known in written.items():
            file = partial / name
            if not file.is_file() or file.stat().st_size != known.bytes:
                raise RunError(
                    f"{file}: a learner rank has written it, but it does not arrive here. "
                    "Checkpoints need a folder that all nodes share: set train.output_dir to one."
                )
        with _writing(partial):
            own = [p for p in partial.rglob("*") if p.is_file() and p.parent.name != "learner"]
            for file in own:
                to_disk(file)
            described = {str(file.relative_to(partial)): checksum(file) for file in own}
            manifest = {
                "format": _FORMAT,
                "versions": dict(_versions()),
                "step": step,
                "state": state,
                "configuration": configuration(config),
                "files": {**described, **written},
            }
            (partial / _MANIFEST).write_text(json.dumps(manifest, indent=1))
            to_disk(partial / _MANIFEST)
            for folder in (*{file.parent for file in own}, partial / "learner", partial):
                to_disk(folder)
            whole = partial.with_suffix("")
            shutil.rmtree(whole, ignore_errors=True)
            partial.rename(whole)
            to_disk(self.folder)

    def keep(self, newest: int, best: int | None = None) -> None:
        """Remove all but so many of the newest, and that of step ``best``."""
        for old in self._whole()[: -newest or None]:
            if old.name != f"step_{best or 0:06d}":
                shutil.rmtree(old)

    @property
    def steps(self) -> list[int]:
        return [int(path.name.removeprefix("step_")) for path in self._whole()]

    def _whole(self) -> list[Path]:
        """Those that have their name, from old to new."""
        return sorted(p for p in self.folder.glob("step_*") if p.suffix != _PARTIAL)


def find_checkpoint(path: Path) -> Checkpoint | None:
    """The checkpoint that ``path`` is, or the newest whole one of the run that it is.

    None if the run has none. Raises RunFolderError if what there is is damaged.
    """
    if path.parent.name == "checkpoints" and path.is_dir() or (path / _MANIFEST).exists():
        return Checkpoint.read(path)
    return Checkpoints(path / "checkpoints").newest_whole()


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


def _difference(file: Path, known: FileSum) -> str | None:
    """What is wrong with a file of the manifest."""
    try:
        size = file.stat().st_size
        if size != known.bytes:
            return f"{file} has {size} bytes instead of {known.bytes}"
        return None if checksum(file) == known else f"{file} is damaged: its checksum is another"
    except OSError as error:
        return f"{file}: {error.strerror or error}"


@contextmanager
def _writing(partial: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"The checkpoint {partial} could not be written: {error}. Make room there, and go on "
            "from the one before it with train.resume=auto."
        ) from error


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", sys.version.split()[0]
    for name in _PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:  # on a CPU vLLM has another name
            continue
