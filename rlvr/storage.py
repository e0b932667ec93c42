"""A folder of files on a disk or in an object store: whatever fsspec has a name for."""

import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

CHUNK = 1 << 24  # bytes that are read, or written, at a time


class FileSum(NamedTuple):
    """What a whole file is known by: its bytes, and their CRC-32 in hexadecimal."""

    bytes: int
    crc32: str


@dataclass(frozen=True)
class Folder:
    """The folder ``url``: a path, or ``s3://bucket/runs``, ``gs://...``, ``memory://...``.

    A store has no renaming that is done at once, and folders that are but the names of files. So
    what needs to be whole must say so in a file that is written last. Every call is made anew, and
    blocks. What fails raises OSError; what fsspec has no package for, ImportError or ValueError.
    """

    url: str

    @classmethod
    def at(cls, where: str) -> "Folder":
        """Of a path or a URL, such that it is the same for processes elsewhere."""
        files, path = url_to_fs(where)
        return cls(path if isinstance(files, LocalFileSystem) else where)

    def __truediv__(self, name: str) -> "Folder":
        return Folder(f"{self.url.rstrip('/')}/{name}")

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        return self.url.rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> "Folder":
        return Folder(self.url.rstrip("/").rpartition("/")[0])

    def create(self) -> None:
        """Make it, where folders are made; nothing if it is there."""
        with self._files() as (files, path):
            files.makedirs(path, exist_ok=True)

    def write(self, file: str, content: Iterable[Any]) -> FileSum:
        """Write a file of it from its parts, bytes or what has a buffer of them.

        On a disk it has reached it when this returns, name and all.
        """
        size, crc = 0, 0
        with self._files() as (files, path):
            with files.open(f"{path}/{file}", "wb") as out:
                for whole in content:
                    for at in range(0, len(whole), CHUNK):
                        part = memoryview(whole)[at : at + CHUNK]
                        out.write(part)
                        size, crc = size + len(part), zlib.crc32(part, crc)
            if isinstance(files, LocalFileSystem):
                written = Path(path, file)
                for name in (written, *list(written.parents)[:3]):
                    _to_disk(name)
        return FileSum(size, f"{crc:08x}")

    def read(self, file: str, start: int = 0, end: int | None = None) -> bytes:
        """The bytes ``start`` .. ``end`` - 1 of a file; fewer, where it has no more."""
        with self._files() as (files, path):
            content: bytes = files.cat_file(f"{path}/{file}", start=start, end=end)
            return content

    def sum(self, file: str) -> FileSum:
        size, crc = 0, 0
        with self._files() as (files, path), files.open(f"{path}/{file}", "rb") as content:
            while part := content.read(CHUNK):
                size, crc = size + len(part), zlib.crc32(part, crc)
        return FileSum(size, f"{crc:08x}")

    def sizes(self) -> dict[str, int]:
        """The bytes of every file in it and below, by its name from here; {} if it is not there."""
        with self._files() as (files, path):
            found = files.find(path, detail=True)
            return {name[len(path) :].lstrip("/"): told["size"] for name, told in found.items()}

    def folders(self) -> list[str]:
        """The names of what lies directly in it and holds files itself; none if it is not there."""
        with self._files() as (files, path):
            listed = files.ls(path, detail=True) if files.isdir(path) else []
            found = (entry["name"] for entry in listed if entry["type"] == "directory")
            return sorted(name.rstrip("/").rpartition("/")[2] for name in found)

    def has(self, file: str) -> bool:
        with self._files() as (files, path):
            return bool(files.isfile(f"{path}/{file}"))

    def remove(self, first: str | None = None) -> None:
        """Remove it with all that is in it, the file ``first`` before the others."""
        with self._files() as (files, path):
            if first is not None and files.isfile(f"{path}/{first}"):
                files.rm_file(f"{path}/{first}")
            if files.isdir(path):
                files.rm(path, recursive=True)

    @contextmanager
    def _files(self) -> Iterator[tuple[AbstractFileSystem, str]]:
        """The file system and the path in it, as it is now; what stores raise becomes OSError."""
        files, path = url_to_fs(self.url)
        files.invalidate_cache()
        try:
            yield files, path
        except OSError:
            raise
        except Exception as error:
            raise OSError(f"{type(error).__name__}: {error}") from error


def _to_disk(path: Path) -> None:
    """Wait until what a file holds, or a folder lists, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
