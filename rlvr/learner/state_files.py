"""The files of a learner's state: parameters and moments, cut into pieces. No DeepSpeed in here.

``state.json`` has what is small and the shape of every parameter. Each ``rank_*.safetensors`` has
the pieces that one rank held: ``fp32/NAME`` is a run of the elements of the parameter NAME, its
master weights, flattened; ``exp_avg/NAME`` and so on are the optimizer's moments of the same
elements. Where a run begins is in the file's header. Any layout can be put together from them.
"""

import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rlvr.errors import RunFolderError

MASTER = "fp32"
_STATE = "state.json"
_CHUNK = 1 << 24  # bytes that are read, or summed, at a time


class FileSum(NamedTuple):
    """What a whole file is known by: its bytes, and their CRC-32 in hexadecimal."""

    bytes: int
    crc32: str


class Piece(NamedTuple):
    """The elements ``start``, ``start + 1``, ... of the flattened tensor ``key``, float32."""

    key: str
    start: int
    values: Tensor


@dataclass
class SharedState:
    """What is the same on every rank."""

    shapes: dict[str, list[int]]  # of every parameter
    optimizer_steps: int = 0
    scalars: dict[str, float] = field(default_factory=dict)  # of the optimizer: its own step
    credit: dict[str, Any] = field(default_factory=dict)


def write(
    folder: Path, rank: int, pieces: Iterable[Piece], shared: SharedState | None
) -> dict[str, FileSum]:
    """Write a rank's files, and let them reach the disk; returns their sums by name.

    Raises OSError. ``shared`` is given on one rank alone.
    """
    sums = {}
    if shared is not None:
        with (folder / _STATE).open("w") as text:
            text.write(json.dumps(asdict(shared)))
        to_disk(folder / _STATE)
        sums[_STATE] = checksum(folder / _STATE)
    file = folder / f"rank_{rank:05d}.safetensors"
    sums[file.name] = _write_tensors(file, list(pieces))
    return sums


def _write_tensors(file: Path, pieces: list[Piece]) -> FileSum:
    """As safetensors does, but summed on the way, without a copy, and beside other threads."""
    starts = {piece.key: piece.start for piece in pieces}
    header: dict[str, Any] = {"__metadata__": {"starts": json.dumps(starts)}}
    end = 0
    for key, _, values in pieces:
        begin, end = end, end + 4 * values.numel()
        header[key] = {"dtype": "F32", "shape": [values.numel()], "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    size, crc = 0, 0
    with file.open("wb") as out:
        contents: Iterable[Any] = (piece.values.numpy().view(np.uint8) for piece in pieces)
        for content in (len(text).to_bytes(8, "little"), text, *contents):
            for at in range(0, len(content), _CHUNK):
                part = content[at : at + _CHUNK]
                out.write(part)
                size, crc = size + len(part), zlib.crc32(part, crc)
    to_disk(file)
    return FileSum(size, f"{crc:08x}")


def to_disk(path: Path) -> None:
    """Wait until what a file holds, or a folder lists, is on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checksum(file: Path) -> FileSum:
    """Raises OSError."""
    size, crc = 0, 0
    with file.open("rb") as content:
        while part := content.read(_CHUNK):
            size, crc = size + len(part), zlib.crc32(part, crc)
    return FileSum(size, f"{crc:08x}")


class StateFiles:
    """The files in ``folder``, read. Raises RunFolderError for one that is damaged."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with _reading(folder / _STATE) as file:
            self.shared = SharedState(**json.loads(file.read_text()))
        self._files = sorted(folder.glob("rank_*.safetensors"))

    @property
    def kinds(self) -> list[str]:
        """``fp32`` and what else is kept of every parameter."""
        if not self._files:
            raise RunFolderError(f"{self._folder}: no rank_*.safetensors in it.")
        with _opened(self._files[0]) as opened:
            return sorted({key.split("/")[0] for key in opened.keys()})

    def fill(self, wanted: Iterable[Piece]) -> None:
        """Write into the values of all that is wanted, whatever the pieces were when saved."""
        pieces = {piece.key: piece for piece in wanted}
        missing = {key: piece.values.numel() for key, piece in pieces.items()}
        for file in self._files:
            with _opened(file) as opened:
                starts = json.loads(opened.metadata()["starts"])
                for key in starts.keys() & pieces.keys():
                    source, wants = opened.get_slice(key), pieces[key]
                    first = max(starts[key], wants.start)
                    last = min(starts[key] + source.get_shape()[0], wants.start + len(wants.values))
                    if first < last:
                        values = source[first - starts[key] : last - starts[key]]
                        wants.values[first - wants.start : last - wants.start].copy_(values)
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
def _reading(file: Path) -> Iterator[Path]:
    try:
        yield file
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunFolderError(f"{file} is missing or damaged ({error}).") from error


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    # For a while only: what is mapped and was read counts as this process's memory.
    with _reading(file), safe_open(file, framework="pt") as opened:
        yield opened
