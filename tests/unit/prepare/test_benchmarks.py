"""Benchmarks by name: from copies of the hub's layouts to the questions of an evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
import yaml
from omegaconf import OmegaConf
from pyarrow import parquet

from rlvr.config import DataConfig, RunConfig
from rlvr.data.catalogue import CATALOGUE, catalogue, with_files
from rlvr.data.rows import Row, read_rows
from rlvr.errors import ConfigError
from rlvr.loop.named_files import named_files
from rlvr.prepare.__main__ import main

ROOT = Path(__file__).parents[3]
RECIPES = sorted((ROOT / "conf" / "recipe").rglob("*.yaml"))
# The columns that the hub has of each, as the data sets' own pages show them.
COLUMNS = {
    "aime24": lambda r: {"id": 60, "problem": r["problem"], "solution": "", "answer": r["answer"],
                         "url": "", "year": "2024"},
    "aime25": lambda r: {"problem_idx": 1, "answer": int(r["answer"]), "problem": r["problem"]},
    "amc23": lambda r: {"id": 0, "problem": r["problem"], "answer": float(r["answer"]), "url": ""},
    "math500": lambda r: {"problem": r["problem"], "solution": "", "answer": r["answer"],
                          "subject": "Algebra", "level": 3, "unique_id": f"test/{r['id']}.json"},
    "minerva": lambda r: {"question": r["problem"], "answer": r["answer"]},
    "olympiad_bench": lambda r: {"id": 1, "question": r["problem"], "final_answer": [r["answer"]],
                                 "is_multiple_answer": False},
    "gsm8k": lambda r: {"question": r["problem"], "answer": f"work\n#### {r['answer']}"},
}  # fmt: skip


@pytest.fixture
def questions() -> dict[str, list[dict]]:
    rows: dict[str, list[dict]] = {}
    for line in (ROOT / "tests" / "data" / "benchmarks.jsonl").read_text().splitlines():
        rows.setdefault((row := json.loads(line))["source"], []).append(row)
    return rows


@pytest.fixture
def hub(questions, tmp_path) -> Path:
    """The project's own catalogue, of a hub that is a folder."""
    nodes = yaml.safe_load(CATALOGUE.read_text())
    for name, rows in questions.items():
        node = nodes[f"{name}.jsonl"]
        node["from"] = node["from"].replace("hf://", f"file://{tmp_path}/hub/")
        split = Path(node["from"].removeprefix("file://")).parent
        split.mkdir(parents=True)
        table = pa.Table.from_pylist([COLUMNS[name](row) for row in rows])
        parquet.write_table(table, split / "0000.parquet")
    path = tmp_path / "catalogue.yaml"
    path.write_text(yaml.safe_dump(nodes))
    return path


def test_every_benchmark_is_asked_for_by_its_name(questions, hub, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main([f"data.eval=[{','.join(questions)}]", f"--catalogue={hub}"])
    told = capsys.readouterr().out
    for name, rows in questions.items():
        assert f"data/{name}.jsonl: {len(rows)} rows" in told
        found = [row for _, row in read_rows(Path("data", f"{name}.jsonl"), DataConfig())]
        assert all(isinstance(row, Row) for row in found), found
        assert [row.messages[0]["content"] for row in found] == [r["problem"] for r in rows]
        assert [row.answer for row in found] == [r["answer"].strip() for r in rows]
        assert {(row.source, row.verifier) for row in found} == {(name, "math")}
    main([f"data.eval=[{','.join(questions)}]", f"--catalogue={hub}"])
    assert capsys.readouterr().out.count("is there") == len(questions)


def test_names_stand_for_files_wherever_data_are_named():
    named = DataConfig(
        train={"deepmath-103k": {"path": "deepmath-103k", "weight": 2}, "own": {"path": "o.jsonl"}},
        eval=["aime24", "./aime25", "own.jsonl"],
    )
    data = with_files(named)
    assert data.train == {
        "deepmath-103k": {"path": "data/deepmath-103k.parquet", "weight": 2},
        "own": {"path": "o.jsonl"},
    }
    assert data.eval == ["data/aime24.jsonl", "./aime25", "own.jsonl"]
    assert with_files(DataConfig(train=["deepscaler"])).train == ["data/deepscaler.parquet"]


def test_a_name_that_is_none_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(SystemExit, match=r"amie24: no such file, .*Did you mean 'aime24'\?"):
        main(["data.eval=[amie24]"])
    with pytest.raises(SystemExit, match="own.jsonl: no such file, and not in"):
        main([f"data.eval=[{tmp_path}/own.jsonl]"])
    with pytest.raises(SystemExit, match="what is to be fetched"):
        main([])


def test_what_is_missing_is_told_with_the_command_that_fetches_it():
    config = RunConfig()
    config.model.path, config.data.train = "hub/name", ["amie24"]
    config.data.eval = ["data/aime24.jsonl", "own.jsonl"]
    train, known, own = named_files(config)
    assert train.endswith(
        "no such file: amie24, nor a name of the catalogue. Did you mean 'aime24'?"
    )
    assert known.endswith("Fetch it: rlvr prepare 'data.eval=[data/aime24.jsonl]'")
    assert own == "data.eval: no such file: own.jsonl"


@pytest.mark.parametrize("key", ["train", "eval"])
def test_the_catalogue_has_every_file_that_recipes_name(key):
    files = {
        Path(f) for r in RECIPES for f in OmegaConf.select(OmegaConf.load(r), f"data.{key}") or []
    }
    named = {file.name for file in files if file.parent == Path("data")}
    assert named and named <= set(catalogue())
    assert len({Path(name).stem for name in catalogue()}) == len(catalogue()), (
        "names are one file's"
    )


@pytest.mark.parametrize(
    ("node", "told"),
    [
        ({"a.jsonl": {"columns": ["x"]}}, "a.jsonl must have 'from'"),
        ({"a.jsonl": {"from": "x", "colums": ["x"]}}, "a.jsonl.colums: no such key.*'columns'"),
    ],
)
def test_a_catalogue_that_is_none(tmp_path, node, told):
    path = tmp_path / "catalogue.yaml"
    path.write_text(yaml.safe_dump(node))
    with pytest.raises(ConfigError, match=told):
        catalogue(path)
