"""Responses with their tokens, packed so that a page holds many and reads few."""

import base64
import gzip
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rlvr.telemetry.metrics import json_clean
from rlvr.telemetry.responses import coefficient_column
from rlvr.types import IN_USE

_FINE = 1000  # coefficients are kept to thousandths
_WORD = re.compile(r"\S+\s*|\s+")
_PLAIN = [
    "group", "sample", "prompt_id", "prompt", "answer", "outcome", "reward", "advantage",
    "finish_reason", "detail", "response_tokens",
]  # fmt: skip


@dataclass(frozen=True)
class Block:
    """The responses of one step, as far as the page has room for them."""

    step: int
    responses: int
    all_responses: int
    packed: str = field(repr=False)


def packed(value: Any) -> str:
    """``value`` as JSON, compressed, in letters that mean nothing to HTML."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), 6)).decode()


def packed_responses(table: pa.Table, methods: Sequence[str]) -> str:
    """Rows of a log of responses, those of a group together.

    The first of ``methods`` is that in use; the columns of the others have their labels.
    A response whose tokens have no texts is shown by words.
    """
    texts, tokens = _tokens(table)
    words = _without_texts(table)
    columns = map(coefficient_column, [IN_USE, *methods[1:]])
    turns = table["turns"].to_pylist() if "turns" in table.column_names else [()] * len(table)
    credit = [_coefficients(table, column) for column in columns]
    groups: dict[int, dict[str, Any]] = {}
    for i, row in enumerate(map(json_clean, table.select(_PLAIN).to_pylist())):
        group = groups.setdefault(row["group"], {"place": row["group"], "responses": []})
        group.update({key: row[key] for key in ("prompt_id", "prompt", "answer")})
        group["responses"].append(
            {
                "sample": row["sample"],
                "outcome": row["outcome"],
                "reward": row["reward"],
                "advantage": row["advantage"],
                "finish": row["finish_reason"],
                "detail": row["detail"],
                "length": row["response_tokens"],
                "unit": "word" if words[i] else "token",
                "tokens": tokens[i],
                "turns": [[t["end"], t["said"], t["reward"]] for t in turns[i]],
                "credit": [own[i] for own in credit],
            }
        )
    return packed({"texts": texts, "groups": list(groups.values())})


def _without_texts(table: pa.Table) -> list[bool]:
    if "tokens" not in table.column_names:
        return [True] * len(table)
    missing: list[bool] = pc.is_null(table["tokens"]).to_pylist()
    return missing


def _tokens(table: pa.Table) -> tuple[list[str], list[list[int]]]:
    """Every text that occurs, and the tokens of each response as places among them."""
    missing = _without_texts(table)
    lists = table["tokens"].combine_chunks() if "tokens" in table.column_names else None
    if lists is None or any(missing):
        kept = lists.to_pylist() if lists is not None else [None] * len(table)
        pairs = zip(kept, table["response"].to_pylist(), strict=True)
        own = [_WORD.findall(text) if t is None else t for t, text in pairs]
        lists = pa.array(own, pa.list_(pa.string()))
    words = lists.flatten().dictionary_encode()
    places = np.split(words.indices.to_numpy(), pc.list_value_length(lists).to_numpy().cumsum())
    return words.dictionary.to_pylist(), [own.tolist() for own in places[: len(lists)]]


def _coefficients(table: pa.Table, column: str) -> list[list[int | None] | int | None]:
    """Of each response in thousandths: one number if all are equal, None if they are unknown."""
    if column not in table.column_names:
        return [None] * len(table)
    found: list[list[int | None] | int | None] = []
    for own in table[column].combine_chunks():
        c = np.asarray(own.values if own.is_valid else [], np.float64)
        if not len(c):
            found.append(None)
            continue
        known = np.isfinite(c)
        fine = np.rint(np.where(known, c, 0) * _FINE).astype(np.int64)
        if known.all():
            found.append(int(fine[0]) if (fine == fine[0]).all() else fine.tolist())
        else:
            found.append([v if k else None for v, k in zip(fine.tolist(), known, strict=True)])
    return found
