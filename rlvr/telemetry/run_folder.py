"""The folder of a run: what lies where, and how it is written so that a kill leaves it whole."""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from rlvr.errors import RunError, RunFolderError


class RunFolder:
    """Paths and files of one run.

    Every file is written whole or not at all, but those that end in ``.jsonl``: these
    grow by lines, and a line cut off by a kill is left out when it is read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.ledger = self.path / "ledger.jsonl"
        self.tokens = self.path / "tokens.jsonl"
        self.summary = self.path / "summary.json"
        self.checkpoints = self.path / "checkpoints"

    @classmethod
    def create(cls, path: str | Path) -> Self:
        """A folder for a new run; RunFolderError if another run's results are there already."""
        folder = cls.open(path)
        if folder.metrics.exists() or any(folder.checkpoints.glob("*")):
            raise RunFolderError(
                f"train.output_dir={path} already holds a run. Choose another folder, or continue "
                "that run with train.resume=auto."
            )
        return folder

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """The folder of a run that may have begun before."""
        folder = cls(path)
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(
                f"train.output_dir={path} cannot be created: {error.strerror or error}."
            ) from error
        return folder

    def responses(self, step: int) -> Path:
        return self.path / "responses" / f"step_{step:06d}.parquet"

    def evaluation(self, step: int, name: str) -> Path:
        return self.path / "evaluation" / name / f"step_{step:06d}.parquet"

    def stacks(self, stage: str) -> Path:
        """A file that is not there yet."""
        files = self.path / "stacks"
        return files / f"{len(list(files.glob('*.txt'))) + 1:03d}_{stage}.txt"

    def skipped(self, step: int) -> Path:
        return self.path / "skipped" / f"step_{step:06d}.parquet"

    def append(self, file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows of JSON to a ``.jsonl`` of the folder; RunError if they cannot be written."""
        with writing(file), file.open("a", encoding="utf-8") as lines:
            lines.write("".join(_line(row) for row in rows))

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl`` so far; RunFolderError names one that is damaged."""
        return _read(self.metrics)

    def read_ledger(self) -> list[dict[str, Any]]:
        """The lines of ``ledger.jsonl`` so far; RunFolderError names one that is damaged."""
        needed = {"draw": int, "prompt": str, "trained": bool}
        return _read(self.ledger, lambda r: all(isinstance(r.get(k), t) for k, t in needed.items()))

    def rewind(self, step: int) -> None:
        """Forget what lies after ``step``, so that a resumed run records each step once."""
        self.summary.unlink(missing_ok=True)
        for file in self.path.glob("*.jsonl"):
            kept = [row for row in _read(file) if row["step"] <= step]
            write_text(file, "".join(_line(row) for row in kept))
        for below in ("responses/", "evaluation/*/", "skipped/"):
            for file in self.path.glob(f"{below}step_*.parquet"):
                if (found := re.search(r"step_(\d+)", file.name)) and int(found[1]) > step:
                    file.unlink()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file that takes the place of ``path`` at the end of the block.

    If the block fails, ``path`` stays what it was and the temporary file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``, whole or not at all. Raises RunError if it cannot be written."""
    with writing(path), replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """Raise RunError if the block cannot write ``file``."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{file} could not be written: {error}. Make room there, and go on with "
            "train.resume=auto."
        ) from error


def _read(
    file: Path, whole: Callable[[dict[str, Any]], bool] = lambda row: True
) -> list[dict[str, Any]]:
    """The rows of a file, each with its ``step`` and otherwise ``whole``."""
    if not file.exists():
        return []
    *lines, _unfinished = file.read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row, why = json.loads(line), f"no row of {file.name}"
        except (ValueError, RecursionError) as error:
            row, why = None, f"not JSON ({error})"
        if not isinstance(row, dict) or type(row.get("step")) is not int or not whole(row):
            raise RunFolderError(f"{file}, line {number}: {why}. Repair or delete the line.")
        rows.append(row)
    return rows


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, allow_nan=False) + "\n"
