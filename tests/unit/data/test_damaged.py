"""Files that are damaged, or hold what no one expects: an error that names file and row."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlvr.config import DataConfig
from rlvr.data.rows import Row, RowError, read_rows
from rlvr.errors import DataError
from tests.unit.json_values import damaged, json_values

quick = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
values = json_values("role", "content", "index")
names = st.sampled_from(
    ["problem", "prompt", "answer", "solution", "reward_model", "extra_info", "id", "verifier"]
)


def read(path) -> list[tuple[int, Row | RowError]]:
    """Everything that a file holds, each row of which is a row or says why not."""
    rows = list(read_rows(path, DataConfig(train=[])))
    assert all(isinstance(row, Row | RowError) for _, row in rows)
    return rows


@quick
@given(st.lists(st.dictionaries(names, values) | values, max_size=4))
def test_any_json_is_a_row_or_says_why_not(tmp_path, rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [number for number, _ in read(path)] == list(range(1, len(rows) + 1))


@quick
@given(st.binary(max_size=200))
def test_any_bytes_are_rows_or_say_why_not(tmp_path, content):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    read(path)


@pytest.fixture(scope="module")
def parquet(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("parquet") / "whole.parquet"
    columns = {"problem": ["abc", "d", None], "answer": ["1", "2", "3"], "n": [[1], [], None]}
    pq.write_table(pa.table(columns), path)
    return path.read_bytes()


@quick
@given(data=st.data())
def test_a_damaged_parquet_file_is_named(tmp_path, parquet, data):
    path = tmp_path / "rows.parquet"
    path.write_bytes(data.draw(damaged(parquet)))
    try:
        read(path)
    except DataError as error:
        assert str(path) in str(error)


def test_a_value_that_python_cannot_have_spoils_its_row_alone(tmp_path):
    path = tmp_path / "rows.parquet"
    buffers = [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xff\xfe")]
    text = pa.Array.from_buffers(pa.string(), 2, buffers)
    pq.write_table(pa.table({"problem": text, "answer": ["1", "2"]}), path)
    [(_, first), (number, second)] = read(path)
    assert isinstance(first, Row) and number == 2
    assert "a value cannot be read" in str(second) and "utf-8" in str(second)


def test_a_row_of_ten_megabytes_is_a_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"problem": "x" * 10 * 2**20, "answer": "1"}) + "\n")
    [(_, row)] = read(path)
    assert isinstance(row, Row)
