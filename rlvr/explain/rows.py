"""Given responses: rows that become groups."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlvr.data.rows import RowError, read_objects
from rlvr.errors import DataError
from rlvr.types import Group, Outcome, Prompt, Response, Sample, Verdict

Numbered = Iterable[tuple[str, Mapping[str, Any] | RowError]]  # where a row stands, and the row
Encode = Callable[[str], list[int]]

_SHOWN = 5  # bad rows that a message names
_ROW = (
    'A row is {"prompt": text that the model read, template included, "response": text, '
    '"reward": number}.'
)


def file_rows(path: Path) -> Numbered:
    """The rows of a .jsonl or .parquet file; DataError if it is none."""
    return ((f"{path}, row {number}", row) for number, row in read_objects(path))


def groups_of(rows: Numbered, prompt: Encode, response: Encode, vocabulary: int) -> list[Group]:
    """A group for each prompt, in the order in which the prompts first come.

    Rows are ``{"prompt": text, "response": text, "reward": number}``. Those of a log of responses
    have ``response_token_ids`` and ``outcome`` too, which are then taken as they are; otherwise
    the text is tokenised, and a response is correct if its reward is above 0. DataError names
    rows that cannot be used.
    """
    found: dict[str, tuple[Prompt, list[Sample]]] = {}
    bad: list[str] = []
    count = 0
    for where, row in rows:
        count += 1
        try:
            if isinstance(row, RowError):
                raise row
            text = _text(row, "prompt")
            if text not in found:
                ids = _known(prompt(text), "prompt", vocabulary)
                answer = row.get("answer")
                shown = answer if isinstance(answer, str) else ""
                found[text] = Prompt(str(len(found) + 1), ids, text, shown, "given"), []
            found[text][1].append(_sample(row, response, vocabulary))
        except (RowError, ValueError) as error:
            bad.append(f"  {where}: {error}")
    if bad:
        more = [f"  and {len(bad) - _SHOWN:,} more"] if len(bad) > _SHOWN else []
        told = "\n".join([*bad[:_SHOWN], *more])
        raise DataError(f"{len(bad):,} of {count:,} rows cannot be used:\n{told}\n{_ROW}")
    if not count:
        raise DataError(f"there are no rows. {_ROW}")
    return [Group(prompt, samples) for prompt, samples in found.values()]


def _sample(row: Mapping[str, Any], encode: Encode, vocabulary: int) -> Sample:
    text, reward = _text(row, "response"), row.get("reward")
    if isinstance(reward, bool) or not isinstance(reward, int | float) or not math.isfinite(reward):
        raise ValueError(f"'reward' must be a number, not {reward!r}")
    outcome = row.get("outcome") or (Outcome.CORRECT if reward > 0 else Outcome.INCORRECT)
    if outcome not in list(Outcome):
        raise ValueError(f"'outcome' must be one of {', '.join(Outcome)}, not {outcome!r}")
    ids = row.get("response_token_ids")
    if ids is not None and not (isinstance(ids, list) and all(type(i) is int for i in ids)):
        raise ValueError("'response_token_ids' must be a list of token ids")
    known = np.array(_known(ids or encode(text), "response", vocabulary), np.int32)
    nothing = np.zeros(len(known))
    finish = str(row.get("finish_reason") or "stop")
    response = Response(known, nothing.astype(np.float32), nothing.astype(np.int32), finish)
    return Sample(response, text, Verdict(float(reward), Outcome(outcome)))


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if key not in row:
        raise ValueError(f"it has no '{key}'; there are {', '.join(map(str, row)) or 'no columns'}")
    if not isinstance(value, str):
        raise ValueError(f"'{key}' must be text, not {type(value).__name__}")
    return value


def _known(ids: Sequence[int], what: str, vocabulary: int) -> Sequence[int]:
    if not len(ids):
        raise ValueError(f"the {what} has no tokens")
    if not 0 <= min(ids) <= max(ids) < vocabulary:
        told = f"the {what} has the token {max(ids)}, but the model has {vocabulary}"
        raise ValueError(f"{told}: the tokenizer is another model's")
    return ids
