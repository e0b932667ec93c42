from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rlvr.config import DataConfig
from rlvr.data.rows import Reason, Row, RowError, read_rows
from rlvr.errors import ConfigError, DataError


def rows_of(path: Path, **config) -> list[Row]:
    rows = [row for _, row in read_rows(path, DataConfig(**config))]
    assert all(isinstance(row, Row) for row in rows), rows
    return rows


def only_error(path: Path, **config) -> RowError:
    ((_, error),) = read_rows(path, DataConfig(**config))
    assert isinstance(error, RowError)
    return error


def test_real_dapo_rows(real_data):
    path = real_data / "dapo_math.parquet"
    raw = pq.read_table(path).to_pylist()
    rows = rows_of(path)
    assert len(rows) == len(raw) == 24
    for row, source in zip(rows, raw, strict=True):
        assert row.id == source["extra_info"]["index"]
        assert row.messages == source["prompt"]
        assert row.answer == source["reward_model"]["ground_truth"]
        assert (row.source, row.verifier) == ("math_dapo_boxed", "math")
        assert row.meta["reward_model"]["style"] == "rule-lighteval/MATH_v2"
        assert not [key for key in row.meta if key.startswith("__")]


@pytest.mark.parametrize("name", ["gsm8k", "math"])
def test_real_jsonl_rows(real_data, name):
    path = real_data / f"{name}.jsonl"
    raw = [json.loads(line) for line in path.read_text().splitlines()]
    rows = rows_of(path)
    assert len(rows) == 12
    for row, source in zip(rows, raw, strict=True):
        assert (row.id, row.answer, row.source) == (source["id"], source["answer"], name)
        assert row.messages == [{"role": "user", "content": source["problem"]}]
        assert set(row.meta) == set(source) - {"id", "problem", "answer", "source"}


def test_gsm8k_as_published(jsonl):
    answer = "48/2 = <<48/2=24>>24 clips in May.\n48+24 = 72 clips altogether.\n#### 1,072"
    (row,) = rows_of(jsonl([{"question": "How many?", "answer": answer}], "gsm8k_train.jsonl"))
    assert (row.id, row.answer, row.source) == ("gsm8k_train-row1", "1,072", "gsm8k_train")


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"First $\boxed{1}$," + "\n" + r"so $\boxed{\frac{1}{\sqrt{2}}}$.", r"\frac{1}{\sqrt{2}}"),
        (r"Thus $x = \boxed 7$.", "7"),
        (r"It is $\boxed{\{1, 2\}}$", r"\{1, 2\}"),
        ("34", "34"),  # a column of final answers that is called solution
    ],
)
def test_math_as_published(jsonl, solution, answer):
    (row,) = rows_of(jsonl([{"problem": "Find it.", "level": "Level 5", "solution": solution}]))
    assert row.answer == answer
    assert row.meta == {"level": "Level 5"}


@pytest.mark.parametrize("solution", ["By symmetry\nit is 3.", "Clearly\n\\boxed{3"])
def test_solution_without_final_answer(jsonl, solution):
    error = only_error(jsonl([{"problem": "Find it.", "solution": solution}]))
    assert error.reason == Reason.NO_ANSWER


def test_humaneval_rows_go_to_the_code_verifier(jsonl):
    row = {"task_id": "HumanEval/0", "prompt": "def f():", "test": "assert f()", "entry_point": "f"}
    path = jsonl([row | {"source": "openai_humaneval"}])
    (read,) = rows_of(path)
    assert (read.id, read.answer, read.verifier) == ("HumanEval/0", "assert f()", "code")
    assert read.meta["entry_point"] == "f"
    (read,) = rows_of(path, verifier="my_package.my_verifier")  # asked for: not second-guessed
    assert read.verifier == "my_package.my_verifier"


def test_verifier_of_a_row_wins(jsonl):
    path = jsonl([{"problem": "a", "answer": "b", "source": "taco", "verifier": "choice"}])
    (row,) = rows_of(path, verifier="exact")
    assert row.verifier == "choice"


def test_columns_by_config(jsonl):
    path = jsonl([{"id": "x", "problem": "no", "answer": "no", "task": {"text": "Q"}, "gold": 3}])
    (row,) = rows_of(path, problem_key="task.text", answer_key="gold")
    assert (row.messages[0]["content"], row.answer) == ("Q", "3")

    error = only_error(path, answer_key="gould")
    assert error.reason == Reason.NO_ANSWER
    assert "gould" in error.detail and "gold" in error.detail and "data.answer_key" in error.detail


@pytest.mark.parametrize(
    ("value", "answer"),
    [(142.0, "142"), (0.25, "0.25"), (7, "7"), (1e30, "1e+30"), (["$2$", "-3"], "$2$, -3")],
)
def test_answers_that_are_numbers_or_several(jsonl, value, answer):
    (row,) = rows_of(jsonl([{"question": "p", "final_answer": value}]))
    assert row.answer == answer


def test_null_is_absent_and_empty_is_not(tmp_path):
    path = tmp_path / "rows.parquet"
    columns = {"problem": ["p", "p"], "answer": [None, " "], "ground_truth": [5.5, 6.0]}
    pq.write_table(pa.table(columns), path)
    (_, first), (number, second) = read_rows(path, DataConfig())
    assert isinstance(first, Row) and first.answer == "5.5"
    assert isinstance(second, RowError) and second.reason == Reason.NO_ANSWER and number == 2


def test_numbers_are_made_ids_with_the_name_of_the_file(jsonl):
    row = {"problem": "p", "answer": "a"}
    path = jsonl([row | {"id": 7}, row | {"extra_info": {"index": 8}}, row, row | {"id": ""}])
    assert [r.id for r in rows_of(path)] == ["rows-7", "rows-8", "rows-row3", "rows-row4"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"problem": "p", "answer": ', Reason.INVALID_JSON),
        (b'{"problem": "\xff\xfe", "answer": "a"}', Reason.INVALID_JSON),
        (b"[" * 100_000, Reason.INVALID_JSON),
        (b"[1, 2]", Reason.WRONG_TYPE),
        ({"answer": "a"}, Reason.NO_PROBLEM),
        ({"problem": " \n", "answer": "a"}, Reason.NO_PROBLEM),
        ({"prompt": [], "answer": "a"}, Reason.NO_PROBLEM),
        ({"prompt": [{"role": "user", "content": ""}], "answer": "a"}, Reason.NO_PROBLEM),
        ({"problem": 3, "answer": "a"}, Reason.WRONG_TYPE),
        ({"prompt": ["p"], "answer": "a"}, Reason.WRONG_TYPE),
        ({"prompt": [{"role": "user", "content": None}], "answer": "a"}, Reason.WRONG_TYPE),
        ({"prompt": [{"role": "assistant", "content": "p"}], "answer": "a"}, Reason.WRONG_TYPE),
        ({"problem": "\ud83d", "answer": "a"}, Reason.WRONG_TYPE),
        ({"problem": "p"}, Reason.NO_ANSWER),
        ({"problem": "p", "answer": None}, Reason.NO_ANSWER),
        ({"problem": "p", "answer": float("nan")}, Reason.NO_ANSWER),
        ({"problem": "p", "answer": "\n"}, Reason.NO_ANSWER),
        ({"problem": "p", "answer": True}, Reason.WRONG_TYPE),
        ({"problem": "p", "answer": ["a", {}]}, Reason.WRONG_TYPE),
        ({"problem": "p", "answer": "a", "source": 3}, Reason.WRONG_TYPE),
        ({"problem": "p", "answer": "a", "verifier": {}}, Reason.WRONG_TYPE),
    ],
)
def test_bad_rows(jsonl, line, reason):
    good = {"problem": "p", "answer": "a"}
    (_, first), (number, error), (_, last) = read_rows(jsonl([good, line, good]), DataConfig())
    assert isinstance(first, Row) and isinstance(last, Row)
    assert isinstance(error, RowError)
    assert (error.reason, number) == (reason, 2)


def test_row_numbers_are_lines_and_limit_counts_rows(jsonl):
    row = {"problem": "p", "answer": "a"}
    path = jsonl([b"\xef\xbb\xbf" + json.dumps(row).encode(), b"", b"  ", row, row])
    assert [number for number, _ in read_rows(path, DataConfig(limit=2))] == [1, 4]
    assert len(rows_of(path)) == 3


def test_parquet_is_numbered_through_its_row_groups(tmp_path):
    path = tmp_path / "many.parquet"
    n = 2500
    columns = {"problem": [f"p{i}" for i in range(n)], "answer": list(range(n))}
    pq.write_table(pa.table(columns), path, row_group_size=700)
    rows = list(read_rows(path, DataConfig()))
    assert [number for number, _ in rows] == list(range(1, n + 1))
    assert all(row.answer == str(number - 1) for number, row in rows)


def test_unreadable_files(tmp_path, jsonl):
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 no, it is not")
    csv = jsonl([b"problem,answer"], "rows.csv")
    for path, what in [
        (tmp_path / "absent.jsonl", "no such file"),
        (broken, "not readable as Parquet"),
        (csv, ".jsonl or .parquet"),
    ]:
        with pytest.raises(ConfigError, match=what) as caught:
            list(read_rows(path, DataConfig()))
        assert isinstance(caught.value, DataError) and str(path) in str(caught.value)
