r"""Rows: what a file says about one task, before any tokenizer has seen it.

``.jsonl`` and ``.parquet`` files are streamed. Columns are found by name, or given by
``data.problem_key`` and ``data.answer_key``; a dot reaches into a nested column. Understood are

* ``{id, problem, answer, source}`` and its relatives (``question``, ``data_source``, ...);
* GSM8K's own rows, whose answer is a worked solution closed by ``#### 72``, and MATH's, whose
  solution holds the answer in its last ``\boxed{}``;
* ``{data_source, prompt: [{role, content}], reward_model: {ground_truth}, extra_info: {index}}``,
  the layout of DAPO-Math-17k and of most data prepared for RL frameworks.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rlvr.config import DataConfig
from rlvr.errors import DataError

Message = dict[str, str]  # role, content

PROBLEM_KEYS = ("problem", "question", "prompt", "messages", "query", "input")
ANSWER_KEYS = (
    "answer", "reward_model.ground_truth", "ground_truth", "final_answer", "solution",
    "tests", "test"
)  # fmt: skip
SOURCE_KEYS = ("source", "data_source", "dataset")
ID_KEYS = ("id", "extra_info.index", "unique_id", "task_id")

CODE_SOURCES = {
    "apps", "codecontests", "codeforces", "humaneval", "leetcode", "livecodebench", "mbpp", "taco"
}  # fmt: skip

_PARQUET_BATCH = 1024  # rows that are Python objects at a time


class Reason(StrEnum):
    """Why a row cannot be used; the names under which dropped rows are counted."""

    INVALID_JSON = "invalid_json"
    NO_PROBLEM = "no_problem"
    NO_ANSWER = "no_answer"
    WRONG_TYPE = "wrong_type"
    TEMPLATE = "template"
    TOO_LONG = "too_long"


class RowError(Exception):
    """One row cannot be used."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Row:
    """One task. A bare problem is one user message; ``meta`` holds the remaining columns."""

    id: str
    messages: list[Message]
    answer: str
    verifier: str
    source: str
    meta: Mapping[str, Any]
    environment: str


def read_rows(path: Path, config: DataConfig) -> Iterator[tuple[int, Row | RowError]]:
    """The rows of a file, or what is wrong with them, with their numbers.

    Rows count from 1, as lines do in an editor. Blank lines of a JSONL file hold no row. At most
    ``config.limit`` rows are read. Raises DataError if there is no such file, or none of ours.
    """
    for number, raw in islice(read_objects(path), config.limit):
        try:
            yield number, raw if isinstance(raw, RowError) else _row(raw, path.stem, number, config)
        except RowError as error:
            yield number, error


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any] | RowError]]:
    """The rows as the file has them, with their numbers; raises as ``read_rows`` does."""
    for number, raw in _raw_rows(path):
        try:
            yield number, _decode(raw) if isinstance(raw, bytes) else raw
        except RowError as error:
            yield number, error


def _raw_rows(path: Path) -> Iterator[tuple[int, bytes | dict[str, Any] | RowError]]:
    if not path.is_file():
        raise DataError(f"{path}: no such file (relative paths start at {Path.cwd()}).")
    if path.suffix == ".jsonl":
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, line
    elif path.suffix == ".parquet":
        number = 0
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=_PARQUET_BATCH):
                    for raw in _objects(batch):
                        number += 1
                        yield number, raw
        except (OSError, ValueError, pa.ArrowException) as error:
            told = f"{path}: not readable as Parquet after row {number}: {error}"
            raise DataError(told) from error
    else:
        raise DataError(f"{path}: data files are .jsonl or .parquet; convert it to one of these.")


def _objects(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | RowError]:
    """The rows as Python objects; Parquet may hold text that is none, and dates without a year."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError) as error:
        if len(batch) > 1:
            for i in range(len(batch)):
                yield from _objects(batch.slice(i, 1))
        elif len(batch):
            yield RowError(Reason.WRONG_TYPE, f"a value cannot be read: {error}")


def _row(row: dict[str, Any], stem: str, number: int, config: DataConfig) -> Row:
    problem_key, problem = _needed(row, "problem", config.problem_key, PROBLEM_KEYS)
    answer_key, answer = _needed(row, "answer", config.answer_key, ANSWER_KEYS)
    source_key, source = _find(row, SOURCE_KEYS)
    source = _text(source, source_key) if source_key else stem

    named = row.get("environment")
    environment = config.environment or "" if named is None else _text(named, "environment")

    used = {problem_key, answer_key, source_key, "id", "verifier", "environment"}
    return Row(
        id=_id(row, stem, number),
        messages=_messages(problem, problem_key),
        answer=_answer(answer, answer_key),
        verifier=_verifier(row, source, config),
        source=source,
        # Names with two underscores are the index columns that pandas leaves in Parquet.
        meta={k: v for k, v in row.items() if k not in used and not k.startswith("__")},
        environment=environment,
    )


def _decode(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RowError(Reason.INVALID_JSON, f"not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise _wrong_type("a row", "a JSON object", row)
    return row


def _needed(
    row: Mapping[str, Any], what: str, named: str | None, known: tuple[str, ...]
) -> tuple[str, Any]:
    """The column that a row cannot do without, and its value."""
    keys = (named,) if named else known
    key, value = _find(row, keys)
    if key is None:
        told = f"nothing under {', '.join(keys)}; the row has {', '.join(row) or 'no column'}"
        told = f"no {what}: {told}. Name the column with data.{what}_key"
        raise RowError(Reason(f"no_{what}"), told)
    return key, value


def _find(row: Mapping[str, Any], keys: tuple[str, ...]) -> tuple[str | None, Any]:
    """The first key with a value, and the value. Null is no value: Parquet has no absent one."""
    for key in keys:
        value = _get(row, key)
        if value is not None and value == value:  # NaN is the null of a column of numbers
            return key, value
    return None, None


def _get(row: Mapping[str, Any], key: str) -> Any:
    if key in row:
        return row[key]
    head, _, rest = key.partition(".")
    inner = row.get(head)
    return _get(inner, rest) if rest and isinstance(inner, Mapping) else None


def _id(row: Mapping[str, Any], stem: str, number: int) -> str:
    for key in ID_KEYS:
        value = _get(row, key)
        if isinstance(value, str) and value.strip():
            return _text(value, key)
        if isinstance(value, int):
            return f"{stem}-{value}"  # every file has its own number 0
    return f"{stem}-row{number}"


def _messages(value: Any, key: str) -> list[Message]:
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list):
        raise _wrong_type(f"'{key}'", "text or a list of messages", value)
    if not value:
        raise RowError(Reason.NO_PROBLEM, f"'{key}' is an empty list of messages")
    messages = []
    for i, message in enumerate(value):
        if not isinstance(message, Mapping):
            raise _wrong_type(f"'{key}[{i}]'", "a message {role, content}", message)
        messages.append({k: _text(message.get(k), f"{key}[{i}].{k}") for k in ("role", "content")})
    if (role := messages[-1]["role"]) != "user":
        told = f"the last message of '{key}' must be the user's, not the {role}'s"
        raise RowError(Reason.WRONG_TYPE, told)
    if not messages[-1]["content"].strip():
        raise RowError(Reason.NO_PROBLEM, f"'{key}' is empty")
    return messages


def _answer(value: Any, key: str) -> str:
    if isinstance(value, list) and value:  # several answers, all of them wanted
        return ", ".join(_answer(own, f"{key}[{i}]") for i, own in enumerate(value))
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)  # 142.0, of a column of numbers
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    text = _text(value, key).strip()
    if not text:
        raise RowError(Reason.NO_ANSWER, f"no answer: '{key}' is empty")
    if marked := re.search(r"\n#### *(.+)\Z", text):
        return marked[1]
    if key.rpartition(".")[2] != "solution":
        return text
    if boxed := _last_boxed(text):
        return boxed
    if "\n" in text:
        told = f"no answer: '{key}' has several lines and no \\boxed{{}} among them"
        raise RowError(Reason.NO_ANSWER, told)
    return text


def _last_boxed(text: str) -> str | None:
    r"""The content of the last ``\boxed{...}``, or what follows a ``\boxed`` without braces."""
    _, found, rest = text.rpartition("\\boxed")
    rest = rest.lstrip()
    if not found or not rest:
        return None
    if rest[0] != "{":
        return re.split(r"[\s$]", rest, maxsplit=1)[0]
    depth = 0
    for i, character in enumerate(rest):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return rest[1:i].strip()
    return None


def _verifier(row: Mapping[str, Any], source: str, config: DataConfig) -> str:
    named = row.get("verifier")
    if named is not None:
        return _text(named, "verifier")
    # The source is a guess: it stands in for the default, never for what a user asked for.
    if config.verifier == DataConfig.verifier:
        if CODE_SOURCES & set(re.split(r"[^a-z]+", source.lower())):
            return "code"
    return config.verifier


def _text(value: Any, key: str) -> str:
    if not isinstance(value, str):
        raise _wrong_type(f"'{key}'", "text", value)
    try:
        value.encode()
    except UnicodeEncodeError as error:  # half a surrogate pair: JSON can write it, UTF-8 cannot
        raise RowError(Reason.WRONG_TYPE, f"'{key}' is not Unicode text: {error}") from error
    return value


def _wrong_type(what: str, expected: str, value: Any) -> RowError:
    names = {dict: "an object", list: "a list", type(None): "null", str: "text"}
    kind = names.get(type(value), type(value).__name__)
    return RowError(Reason.WRONG_TYPE, f"{what} must be {expected}, not {kind}")
