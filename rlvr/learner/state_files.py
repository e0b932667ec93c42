"""The files of a learner's state: parameters and moments, cut into pieces. No DeepSpeed in here.

``state.json`` has what is small and the shape of every parameter. Each ``rank_*.safetensors`` has
the pieces that one rank held: ``fp32/NAME`` is a run of the elements of the parameter NAME, its
master weights, flattened; ``exp_avg/NAME`` and so on are the optimizer's moments of the same
elements. Where a run begins is in the file's header. Any layout can be put together from them.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlvr.errors import RunFolderError
from rlvr.storage import CHUNK, FileSum, Folder

MASTER = "fp32"
_STATE = "state.json"


class Piece(NamedTuple):
    """The elements ``start``, ``start + 1``, ... of the flattened tensor ``key``, float32."""

    key: str
    start: int
    values: Tensor


@dataclass
class SharedState:
    """What is the same on every rank."""

    shapes: dict[str, list[int]]  # of every parameter that is trained
    optimizer_steps: int = 0
    scalars: dict[str, float] = field(default_factory=dict)  # of the optimizer: its own step
    credit: dict[str, Any] = field(default_factory=dict)
    frozen: int = 0  # the sum of the bits of all other weights


def write(
    folder: Folder, rank: int, pieces: Iterable[Piece], shared: SharedState | None
) -> dict[str, FileSum]:
    """Write a rank's files, and let them reach the disk; returns their sums by name.

    Raises OSError. ``shared`` is given on one rank alone.
    """
    sums = {}
    if shared is not None:
        sums[_STATE] = folder.write(_STATE, [json.dumps(asdict(shared)).encode()])
    file = f"rank_{rank:05d}.safetensors"
    sums[file] = folder.write(file, _safetensors(list(pieces)))
    return sums


def _safetensors(pieces: list[Piece]) -> Iterator[Any]:
    """The parts of a file as safetensors would write it, without a copy."""
    starts = {piece.key: piece.start for piece in pieces}
    header: dict[str, Any] = {"__metadata__": {"starts": json.dumps(starts)}}
    end = 0
    for key, _, values in pieces:
        begin, end = end, end + 4 * values.numel()
        header[key] = {"dtype": "F32", "shape": [values.numel()], "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little")
    yield text
    for piece in pieces:
        yield piece.values.numpy().view(np.uint8)


class _Runs:
    """The pieces of one file: where each run of elements begins, and where its bytes lie."""

    def __init__(self, folder: Folder, file: str) -> None:
        self._folder, self._file = folder, file
        size = int.from_bytes(folder.read(file, 0, 8), "little")
        header = json.loads(folder.read(file, 8, 8 + size))
        self.starts: dict[str, int] = json.loads(header.pop("__metadata__")["starts"])
        self.counts: dict[str, int] = {key: told["shape"][0] for key, told in header.items()}
        self._at = {key: 8 + size + told["data_offsets"][0] for key, told in header.items()}

    def read(self, key: str, first: int, into: Tensor) -> None:
        """The elements of the run from its ``first`` on, as many as there is room for."""
        for begin in range(0, into.numel(), CHUNK // 4):
            part = into[begin : begin + CHUNK // 4]
            at = self._at[key] + 4 * (first + begin)
            content = bytearray(self._folder.read(self._file, at, at + 4 * part.numel()))
            if len(content) < 4 * part.numel():
                raise ValueError("it ends too soon")
            part.copy_(torch.frombuffer(content, dtype=torch.float32))


class StateFiles:
    """The files in ``folder``, read. Raises RunFolderError for one that is damaged."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        with self._reading(_STATE):
            self.shared = SharedState(**json.loads(folder.read(_STATE)))
            self._names = sorted(n for n in folder.sizes() if n.endswith(".safetensors"))

    @property
    def shapes(self) -> dict[str, list[int]]:
        """Of every parameter that is trained."""
        return self.shared.shapes

    @property
    def kinds(self) -> list[str]:
        """``fp32`` and what else is kept of every parameter."""
        if not self._names:
            raise RunFolderError(f"{self._folder}: no rank_*.safetensors in it.")
        with self._reading(self._names[0]):
            return sorted({key.split("/")[0] for key in _Runs(self._folder, self._names[0]).starts})

    def fill(self, wanted: Iterable[Piece]) -> None:
        """Write into the values of all that is wanted, whatever the pieces were when saved."""
        pieces = {piece.key: piece for piece in wanted}
        missing = {key: piece.values.numel() for key, piece in pieces.items()}
        for name in self._names:
            with self._reading(name):
                runs = _Runs(self._folder, name)
                for key in runs.starts.keys() & pieces.keys():
                    start, wants = runs.starts[key], pieces[key]
                    first = max(start, wants.start)
                    last = min(start + runs.counts[key], wants.start + len(wants.values))
                    if first < last:
                        into = wants.values[first - wants.start : last - wants.start]
                        runs.read(key, first - start, into)
                        missing[key] -= last - first
        if absent := [key for key, count in missing.items() if count]:
            raise RunFolderError(
                f"{self._folder}: {absent[0]} is not whole in its files; {missing[absent[0]]} "
                "elements are missing."
            )

    def weights(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The master weights of these parameters, whole, float32."""
        whole = {name: torch.empty(self.shared.shapes[name]) for name in names}
        self.fill(Piece(f"{MASTER}/{name}", 0, w.view(-1)) for name, w in whole.items())
        return whole

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            told = f"{self._folder / name} is missing or damaged ({error})."
            raise RunFolderError(told) from error
