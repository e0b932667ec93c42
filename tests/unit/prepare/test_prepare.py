"""Files of data are made as the catalogue says, from copies of the hub's layout."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from omegaconf import OmegaConf
from pyarrow import parquet

from rlvr.config import RunConfig
from rlvr.data.catalogue import catalogue
from rlvr.errors import ConfigError, RunError
from rlvr.prepare import files
from rlvr.prepare.__main__ import main
from rlvr.prepare.files import changed, make
from rlvr.prepare.needs import prepare_data


@pytest.fixture
def hub(tmp_path) -> Path:
    """A data set as the hub converts it: a folder a split, parts of Parquet in it."""
    split = tmp_path / "hub" / "default" / "train"
    split.mkdir(parents=True)
    for part in range(3):
        rows = [
            {"problem": f"{part}+{i}", "answer": str(part + i), "level": f"Level {i % 5 + 1}"}
            for i in range(10)
        ]
        table = pa.Table.from_pylist([row | {"solution": "long " * 100} for row in rows])
        parquet.write_table(table, split / f"{part:04d}.parquet")
    return split


def written(tmp_path: Path, node: dict) -> Path:
    path = tmp_path / "catalogue.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(node)))
    return path


def test_columns_and_rows_are_chosen(hub, tmp_path):
    entry = {
        "from": f"file://{hub}/*.parquet",
        "columns": ["problem", "answer", "level"],
        "where": {"level": ["Level 3", "Level 5"]},
    }
    for name in ("hard.parquet", "hard.jsonl"):
        known = catalogue(written(tmp_path, {name: entry}))
        assert make(tmp_path / "data" / name, known[name]) == 12
    table = parquet.read_table(tmp_path / "data" / "hard.parquet")
    lines = (tmp_path / "data" / "hard.jsonl").read_text().splitlines()
    assert table.to_pylist() == [json.loads(line) for line in lines]
    assert set(table.column_names) == {"problem", "answer", "level"}
    assert {row["level"] for row in table.to_pylist()} == {"Level 3", "Level 5"}
    assert [row["problem"] for row in table.to_pylist()][:4] == ["0+2", "0+4", "0+7", "0+9"]
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == [
        "hard.jsonl",
        "hard.jsonl.origin.json",
        "hard.parquet",
        "hard.parquet.origin.json",
    ]


def test_what_was_interrupted_goes_on(hub, tmp_path, monkeypatch):
    entry = files.Entry([f"file://{hub}/*.parquet"])
    file, fetch, fetched = tmp_path / "rows.parquet", files._fetch, []

    def breaks(url, entry, part):
        if len(fetched) == 2:
            raise RunError("the line is down")
        fetched.append(url)
        fetch(url, entry, part)

    monkeypatch.setattr(files, "_fetch", breaks)
    with pytest.raises(RunError, match="the line is down"):
        make(file, entry)
    assert not file.exists()
    again = []
    monkeypatch.setattr(files, "_fetch", lambda *a: (again.append(a[0]), fetch(*a)))
    assert make(file, entry) == 30
    assert len(again) == 1 and again[0] not in fetched


def test_a_file_that_was_changed_is_told(hub, tmp_path):
    file = tmp_path / "rows.jsonl"
    make(file, files.Entry([f"file://{hub}/0000.parquet"]))
    assert not changed(file)
    file.write_text(file.read_text() + "\n")
    assert changed(file)


def test_what_cannot_be_read_is_named(hub, tmp_path):
    (hub / "0001.parquet").write_bytes(b"cut off")
    with pytest.raises(RunError, match="0001.parquet: cannot be read"):
        make(tmp_path / "rows.jsonl", files.Entry([f"file://{hub}/*.parquet"]))
    with pytest.raises(RunError, match="nothing of that name"):
        make(tmp_path / "rows.jsonl", files.Entry([f"file://{hub}/*.arrow"]))
    assert not (tmp_path / "rows.jsonl").exists()


def test_a_whole_run_is_prepared(hub, tmp_path, tiny_model, capsys):
    known = written(tmp_path, {"rows.parquet": {"from": f"file://{hub}/*.parquet"}})
    command = [
        f"model.path={tiny_model(True)}",
        f"data.train=[{tmp_path}/data/rows.parquet]",
        f"train.output_dir={tmp_path}/run",
        "train.steps=1",
        "train.prompts_per_step=2",
        "cluster=local_cpu",
        f"--catalogue={known}",
    ]
    main(command)
    told = capsys.readouterr().out
    assert "rows.parquet: 30 rows" in told and "0002.parquet: 10 rows" in told
    main(command)
    assert "rows.parquet: is there" in capsys.readouterr().out


def test_files_that_nobody_knows_are_named_together(tmp_path):
    config = RunConfig()
    config.data.train, config.data.eval = [f"{tmp_path}/a.jsonl"], [f"{tmp_path}/b.jsonl"]
    with pytest.raises(ConfigError, match=r"(?s)a\.jsonl: no such file.*b\.jsonl: no such file"):
        prepare_data(config)
