"""The checkpoints of a run: begun, finished, found, and removed again."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from rlvr.config import ModelConfig, RunConfig
from rlvr.errors import RunError, RunFolderError
from rlvr.learner.model_folder import describe
from rlvr.loop.checkpoint import MANIFEST, Checkpoint, write_manifest
from rlvr.storage import FileSum, Folder
from rlvr.telemetry.run_folder import RunFolder

_NAME = re.compile(r"step_(\d{6,})")


class Checkpoints:
    """The checkpoints of a run, ``step_*`` in one folder. All calls block."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    @classmethod
    def of(cls, config: RunConfig) -> "Checkpoints":
        """Those of ``train.checkpoint_dir``, by default in ``train.output_dir``."""
        own = RunFolder(config.train.output_dir).checkpoints
        return cls(Folder.at(config.train.checkpoint_dir or str(own)))

    @classmethod
    def of_run(cls, run: Folder) -> "Checkpoints":
        """Those of the run in this folder. Raises RunFolderError for a damaged configuration."""
        told = None
        if run.has("config.yaml"):
            try:
                told = yaml.safe_load(run.read("config.yaml"))["train"].get("checkpoint_dir")
            except (
                OSError,
                ValueError,
                TypeError,
                LookupError,
                AttributeError,
                yaml.YAMLError,
            ) as e:
                raise RunFolderError(f"{run / 'config.yaml'} is damaged: {e}") from e
        return cls(Folder.at(str(told)) if told else run / "checkpoints")

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
                return Checkpoint.read(self.at(step))
            except RunFolderError as error:
                reasons.append(str(error))
                print(f"checkpoints: {self.at(step).name} is left out. {error}", flush=True)
        if reasons:
            raise RunFolderError(f"no checkpoint in {self.folder} is whole:\n" + "\n".join(reasons))
        return None

    def begin(self, step: int) -> Folder:
        """An empty folder for the files of a checkpoint, which is not one yet.

        Raises RunError if there can be none.
        """
        folder = self.at(step)
        with _writing(folder):
            for name, finished in self._names().items():
                if not finished or name == folder.name:
                    (self.folder / name).remove(first=MANIFEST)
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
        with _writing(folder):
            here = folder.sizes()
            for name, known in files.items():
                if here.get(name) != known.bytes:
                    raise RunError(
                        f"{folder / name} was written, but it does not arrive here. Checkpoints "
                        "need a place that all nodes share: set train.output_dir or "
                        "train.checkpoint_dir to one."
                    )
            write_manifest(folder, step, state, config, files)

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
                self.at(step).remove(first=MANIFEST)

    def forget_after(self, step: int) -> None:
        """Remove what lies after ``step``: it is damaged, and the run will make it again."""
        for later in [known for known in self.steps if known > step]:
            self.at(later).remove(first=MANIFEST)

    @property
    def steps(self) -> list[int]:
        """Of those that have a manifest, from old to new."""
        return sorted(int(n.removeprefix("step_")) for n, whole in self._names().items() if whole)

    def at(self, step: int) -> Folder:
        return self.folder / f"step_{step:06d}"

    def _names(self) -> dict[str, bool]:
        """The folders of checkpoints, and whether each has a manifest."""
        names = [name for name in self.folder.folders() if _NAME.fullmatch(name)]
        return {name: (self.folder / name).has(MANIFEST) for name in names}


def find_checkpoint(where: Folder) -> Checkpoint | None:
    """The checkpoint that ``where`` is, or the newest whole one of the run that it is.

    None if there is none. Raises RunFolderError if what there is is damaged.
    """
    if _NAME.fullmatch(where.name) and where.sizes():
        return Checkpoint.read(where)
    return Checkpoints.of_run(where).newest_whole() or Checkpoints(where).newest_whole()


@contextmanager
def _writing(folder: Folder) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"The checkpoint {folder} could not be written: {error}. Make room there, and go on "
            "from the one before it with train.resume=auto."
        ) from error
