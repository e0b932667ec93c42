"""Every response is on disk, whatever it says; a disk that is full is told."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from rlvr.errors import RunError
from rlvr.telemetry.responses import ResponseLog, response_table


def written(folder, groups, advantages=None, step=3):
    async def write() -> None:
        log = ResponseLog()
        await log.write(folder.responses(step), step, groups, advantages)
        log.close()

    asyncio.run(write())
    return parquet.read_table(folder.responses(step))


def test_a_row_a_sample(folder, make_group):
    groups = [
        make_group([(2, "correct", 1.0), (3, "incorrect", 0.0)], version=2, format=0.5),
        make_group([(0, "error", 0.0)], finish="length"),
    ]
    table = written(folder, groups, np.array([0.5, -0.5, 0.0]))
    assert table.schema.equals(response_table(3, []).schema), "typed, also where all is null"
    first, _, empty = table.to_pylist()
    assert first == {
        "step": 3,
        "group": 0,
        "sample": 0,
        "prompt_id": "p",
        "source": "",
        "verifier": "exact",
        "prompt": "1 + 1 =",
        "answer": "2",
        "response": "text",
        "prompt_tokens": 2,
        "response_tokens": 2,
        "reward": 1.0,
        "outcome": "correct",
        "detail": "why",
        "components": '{"format": 0.5}',
        "advantage": 0.5,
        "finish_reason": "stop",
        "policy_version_min": 2,
        "policy_version_max": 2,
        "logp_mean": -0.5,
        "verifier_seconds": 0.5,
        "turns": [],
        "response_token_ids": [0, 1],
        "tokens": None,
        "coefficient": None,
    }
    assert [table[c].to_pylist() for c in ("group", "sample")] == [[0, 0, 1], [0, 1, 0]]
    assert empty["logp_mean"] is None and empty["policy_version_min"] is None


def test_an_evaluation_has_no_advantage(folder, make_group):
    table = written(folder, [make_group([(2, "correct", 1.0)])])
    assert table["advantage"].to_pylist() == [None]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters() | st.characters(categories=["Cs"])))
def test_hostile_text(make_group, text):
    table = response_table(1, [make_group([(1, "correct", 1.0)], text=text)])
    [stored] = table["response"].to_pylist()
    lone = {c for c in text if "\ud800" <= c <= "\udfff"}
    assert stored == text.translate({ord(c): "?" for c in lone})


def test_components_need_not_be_finite(make_group):
    table = response_table(1, [make_group([(1, "correct", 1.0)], score=float("nan"))])
    [components] = table["components"].to_pylist()
    assert json.loads(components) == {"score": None, "nonfinite": 1}


def test_advantages_must_fit(folder, make_group):
    with pytest.raises(ValueError, match="2 responses came with 1 advantages"):
        written(folder, [make_group([(1, "correct", 1.0)] * 2)], np.zeros(1))


@pytest.mark.parametrize("at", ["the next write", "the end"])
def test_a_disk_that_is_full_is_told(folder, make_group, at):
    groups = [make_group([(1, "correct", 1.0)])]
    (folder.path / "responses").write_text("a file where a folder must be")

    async def write() -> None:
        log = ResponseLog()
        await log.write(folder.responses(1), 1, groups)
        with pytest.raises(RunError, match=r"step_000001.*could not.*log_responses=false"):
            if at == "the end":
                log.close()
            else:
                await log.write(folder.responses(2), 2, groups)
        log.close()  # told once

    asyncio.run(write())
    assert not list(folder.path.glob("**/*.tmp"))
