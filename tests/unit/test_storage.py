"""A folder is the same on a disk and in a store."""

from __future__ import annotations

import itertools
import os
import zlib

import fsspec
import numpy as np
import pytest

from rlvr import storage
from rlvr.storage import FileSum, Folder

numbers = itertools.count()


@pytest.fixture(params=["path", "file://", "memory://"])
def folder(request, tmp_path) -> Folder:
    if request.param == "memory://":
        return Folder.at(f"memory://test_storage/{next(numbers)}")
    return Folder.at(f"{request.param.removeprefix('path')}{tmp_path}/a folder")


def test_files_are_written_read_and_removed(folder, monkeypatch):
    monkeypatch.setattr(storage, "CHUNK", 7)
    assert (folder.sizes(), folder.folders(), folder.has("a")) == ({}, [], False)
    for name in ("first", "second"):
        (folder / name).create()
    values = np.arange(10, dtype=np.float32)
    content = b"header" + values.tobytes()
    known = (folder / "first").write("a", [b"header", values.view(np.uint8)])
    assert known == FileSum(46, f"{zlib.crc32(content):08x}") == (folder / "first").sum("a")
    assert (folder / "first").read("a") == content
    assert (folder / "first").read("a", 4, 8) == content[4:8]
    assert (folder / "first").read("a", 44, 99) == content[44:]
    (folder / "second").write("a", [])
    assert folder.sizes() == {"first/a": 46, "second/a": 0}
    assert folder.folders() == ["first", "second"] and (folder / "second").has("a")
    (folder / "first").remove(first="a")
    assert folder.sizes() == {"second/a": 0}
    folder.remove()
    folder.remove()
    assert not folder.sizes() and not folder.folders()
    with pytest.raises(OSError):
        folder.read("a")
    with pytest.raises(OSError):
        folder.sum("a")


def test_what_is_left_of_a_removal_that_was_cut_off_lacks_its_first_file(folder, monkeypatch):
    folder.create()
    for name in ("a", "manifest", "z"):
        folder.write(name, [b"1"])

    def fail(*arguments, **options):
        raise RuntimeError("the power is gone")

    files, _ = fsspec.core.url_to_fs(folder.url)
    monkeypatch.setattr(files, "rm", fail)
    with pytest.raises(OSError, match="RuntimeError: the power is gone"):
        folder.remove(first="manifest")
    assert set(folder.sizes()) == {"a", "z"}


def test_a_path_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Folder.at("run/checkpoints").url == f"{tmp_path}/run/checkpoints"
    assert Folder.at("file://x/y").url.startswith(os.sep)
    assert (Folder("s3://bucket/run/") / "a").url == "s3://bucket/run/a"
    assert Folder("s3://bucket/run/").name == "run"


@pytest.mark.parametrize("url", ["nowhere://a", "gs://bucket/a"])
def test_what_fsspec_has_no_name_or_package_for(url):
    with pytest.raises((ImportError, ValueError)):
        Folder.at(url)
