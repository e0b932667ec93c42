"""A run's folder holds each step once, whatever ended the run before."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.errors import ConfigError, RunError, RunFolderError
from rlvr.telemetry.run_folder import RunFolder, replacing, write_text


def test_a_folder_with_a_run_takes_no_other(folder):
    folder.append(folder.metrics, [{"step": 1}])
    with pytest.raises(ConfigError, match=r"train\.output_dir=.*resume=auto"):
        RunFolder.create(folder.path)
    assert RunFolder.open(folder.path).read_metrics() == [{"step": 1}]


def test_a_checkpoint_is_a_run_too(folder):
    (folder.checkpoints / "step_000001").mkdir(parents=True)
    with pytest.raises(RunFolderError, match="already holds a run"):
        RunFolder.create(folder.path)


def test_a_folder_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"file/run cannot be created"):
        RunFolder.create(tmp_path / "file" / "run")


@given(rows=st.lists(st.integers(0, 9), max_size=8), cut=st.integers(0, 40), step=st.integers(0, 9))
def test_a_kill_leaves_whole_lines(tmp_path_factory, rows, cut, step):
    """However many bytes reached the disk, the lines that did are read and rewound."""
    folder = RunFolder.open(tmp_path_factory.mktemp("run"))
    folder.append(folder.metrics, [{"step": s, "text": "ä\u2028\n"} for s in rows])
    written = folder.metrics.read_bytes()
    kept = written[: max(len(written) - cut, 0)]
    folder.metrics.write_bytes(kept)
    steps = rows[: kept.count(b"\n")]
    assert [row["step"] for row in folder.read_metrics()] == steps
    folder.rewind(step)
    folder.append(folder.metrics, [{"step": 10}])
    assert [row["step"] for row in folder.read_metrics()] == [s for s in steps if s <= step] + [10]


def test_a_damaged_line_is_named(folder):
    folder.metrics.write_text('{"step": 1}\n{"step": \n{"step": 3}\n')
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl, line 2: not JSON"):
        folder.read_metrics()


def test_rewind_forgets_what_lies_after(folder):
    folder.append(folder.metrics, [{"step": 1}, {"step": 2}, {"step": 3}])
    folder.append(folder.tokens, [{"step": 2}, {"step": 3}])
    files = [folder.responses(2), folder.responses(3)]
    files += [folder.evaluation(2, "greedy"), folder.evaluation(3, "greedy"), folder.summary]
    for file in files:
        write_text(file, "")
    folder.rewind(2)
    assert [row["step"] for row in folder.read_metrics()] == [1, 2]
    assert folder.tokens.read_text() == '{"step": 2}\n'
    assert [file.exists() for file in files] == [True, False, True, False, False]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    file = tmp_path / "deep" / "file"
    write_text(file, "old")
    with pytest.raises(ZeroDivisionError), replacing(file) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert file.read_text() == "old"
    assert os.listdir(file.parent) == ["file"]


def test_a_full_disk_is_told(folder):
    full = folder.path / "full.jsonl"
    full.symlink_to("/dev/full")
    with pytest.raises(RunError, match=r"full\.jsonl could not be written: .*No space left"):
        folder.append(full, [{"step": 1}])
    (folder.path / "file").write_text("")
    with pytest.raises(RunError, match="could not be written"):
        write_text(folder.path / "file" / "below", "text")
