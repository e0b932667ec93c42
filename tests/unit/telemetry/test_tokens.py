"""What a reader finds of tokens in a run's folder: texts, coefficients, those that stand out."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from pyarrow import parquet

from rlvr.config import RunConfig, TelemetryConfig
from rlvr.telemetry.run_folder import RunFolder
from rlvr.telemetry.run_log import Telemetry
from rlvr.telemetry.token_texts import TokenTexts
from rlvr.telemetry.tokens import TokenLog
from rlvr.types import IN_USE, Group, Outcome, Prompt, Response, Sample, Verdict


def decode(sequences):
    """Words, of which the first loses its space, as some tokenizers have it."""
    return [" ".join(f"w{i}" for i in ids) for ids in sequences]


def group(name: str, *lengths: int) -> Group:
    responses = [
        Response(np.arange(n, dtype=np.int32), np.zeros(n, np.float32), np.zeros(n, np.int32), "s")
        for n in lengths
    ]
    samples = [
        Sample(r, "text", Verdict(float(i), Outcome.CORRECT)) for i, r in enumerate(responses)
    ]
    return Group(Prompt(name, [5], "", "", "exact"), samples)


def ones(*lengths: int) -> list[np.ndarray]:
    return [np.ones(n, np.float32) for n in lengths]


GROUPS = [group("a", 4, 20), group("b", 2)]
ADVANTAGES = np.array([-1.0, 1.0, 0.5])


@pytest.fixture
def coefficients():
    found = ones(4, 20, 2)
    found[1][19], found[2][0], found[0][2] = 1.5, 1.25, 0.25
    return found


def test_those_that_stand_out(coefficients):
    rows = TokenLog(decode).of(GROUPS, ADVANTAGES, {IN_USE: coefficients}).standing_out
    assert [r["side"] for r in rows] == ["raised"] * 10 + ["lowered"] * 10
    first, second, *_, last = rows
    assert [r["token"] for r in (first, second, last)] == [" w19", " w0", " w2"]
    assert first["before"] == " w11 w12 w13 w14 w15 w16 w17 w18"
    assert [r["before"] for r in (second, last)] == ["", " w0 w1"]
    assert [(r["group"], r["sample"], r["position"]) for r in (first, second, last)] == [
        (0, 1, 19),
        (1, 0, 0),
        (0, 0, 2),
    ]
    assert [(r["coefficient"], r["advantage"]) for r in (first, second, last)] == [
        (1.5, 1.0),
        (1.25, 0.5),
        (0.25, -1.0),
    ]


@pytest.mark.parametrize("lengths", [(3, 4), (30, 41)])
def test_the_largest_and_the_smallest(seed, lengths):
    generator = np.random.default_rng(seed)
    drawn = [generator.random(n).round(1).astype(np.float32) for n in (*lengths, 2)]  # with ties
    groups, advantages = [group("a", *lengths), group("b", 2)], np.array([0.5, -1.0, 0.0])
    rows = TokenLog(decode).of(groups, advantages, {IN_USE: drawn}).standing_out
    every = sorted(np.concatenate(drawn[:2]).tolist(), reverse=True)
    expected = every if len(every) <= 20 else every[:10] + every[-10:]
    assert [r["coefficient"] for r in rows] == expected
    places = {(r["sample"], r["position"]) for r in rows}
    assert len(places) == len(rows) and {r["group"] for r in rows} == {0}
    assert all(drawn[r["sample"]][r["position"]] == np.float32(r["coefficient"]) for r in rows)


def test_none_stands_out_of_equals(coefficients):
    log = TokenLog(decode)
    assert log.of(GROUPS, ADVANTAGES, {IN_USE: ones(4, 20, 2)}).standing_out == []
    assert log.of(GROUPS, 0 * ADVANTAGES, {IN_USE: coefficients}).standing_out == []
    assert log.of(GROUPS, ADVANTAGES, {IN_USE: [None] * 3}).standing_out == []
    some = {IN_USE: [coefficients[0], None, coefficients[2]]}
    left_out = log.of(GROUPS, ADVANTAGES, some)
    assert {r["sample"] for r in left_out.standing_out if r["group"] == 0} == {0}


def by_bytes(sequences):
    """Every id is a byte of UTF-8."""
    return [bytes(int(i) for i in ids).decode(errors="replace") for ids in sequences]


@pytest.mark.parametrize("text", ["plain", "aß€🙂b", "🙂🙂", "", "a\n<b>\t"])
def test_texts_of_tokens_make_up_the_response(text):
    texts = TokenTexts(by_bytes)
    ids = np.frombuffer(text.encode(), np.uint8)
    broken = np.frombuffer("é".encode()[:1], np.uint8)
    for _ in range(2):  # what is remembered is the same
        own, cut, other = texts.of([ids, broken, np.frombuffer(b"xy", np.uint8)]).to_pylist()
        assert "".join(own) == text and len(own) == len(ids)
        assert cut == ["\ufffd"] and other == ["x", "y"]
    pieces = texts.of([np.frombuffer("a€".encode(), np.uint8)])
    assert pieces.to_pylist() == [["a", "€", "", ""]]


@pytest.mark.parametrize("logged", [True, False])
def test_a_run_keeps_them_and_a_resumed_one_forgets_what_it_repeats(
    tmp_path, logged, capsys, coefficients
):
    folder = RunFolder.create(tmp_path / "run")
    config = RunConfig()
    config.train.steps, config.train.output_dir = 3, str(folder.path)
    config.telemetry = TelemetryConfig(wandb="disabled", progress=False, log_responses=logged)
    shadow = [None, *(2 * c for c in coefficients[1:])]
    both = {IN_USE: [*coefficients[:2], None], "thr(p=0.2)": shadow}
    tokens = TokenLog(decode).of(GROUPS, ADVANTAGES, both)

    async def steps(first: int, last: int) -> None:
        telemetry = Telemetry(config.telemetry, folder)
        telemetry.start(config, first - 1)
        for step in range(first, last + 1):
            await telemetry.step(step, GROUPS, ADVANTAGES, {}, {"time/step_s": 1.0}, tokens)
        telemetry.close()

    asyncio.run(steps(1, 3))
    asyncio.run(steps(2, 2))
    if not logged:
        assert not folder.tokens.exists()
        return
    kept = [json.loads(line) for line in folder.tokens.read_text().splitlines()]
    assert [r["step"] for r in kept] == [1] * 20 + [2] * 20
    assert kept[20] == {"step": 2, **tokens.standing_out[0]}
    table = parquet.read_table(folder.responses(2))
    assert table["response_token_ids"].to_pylist() == [[*range(n)] for n in (4, 20, 2)]
    assert table["tokens"].to_pylist()[2] == [" w0", " w1"]
    assert table["coefficient"].to_pylist() == [*(c.tolist() for c in coefficients[:2]), None]
    beside = table["coefficient:thr(p=0.2)"].to_pylist()
    assert beside == [None, *(c.tolist() for c in shadow[1:])]


def test_wandb_gets_a_table(tmp_path, capsys, coefficients):
    wandb = pytest.importorskip("wandb")
    folder = RunFolder.create(tmp_path / "run")
    config = RunConfig()
    config.train.steps, config.train.output_dir = 1, str(folder.path)
    config.telemetry = TelemetryConfig(wandb="offline", progress=False, log_responses=True)
    tokens = TokenLog(decode).of(GROUPS, ADVANTAGES, {IN_USE: coefficients})

    async def step() -> None:
        telemetry = Telemetry(config.telemetry, folder)
        telemetry.start(config)
        await telemetry.step(1, GROUPS, ADVANTAGES, {}, {"time/step_s": 1.0}, tokens)
        telemetry.close()

    asyncio.run(step())
    assert wandb.run is None
    assert "turned off" not in capsys.readouterr().out
    [file] = (tmp_path / "run" / "wandb").glob("offline-run-*/files/media/table/credit/tokens*")
    table = json.loads(file.read_text())
    assert table["columns"] == list(tokens.standing_out[0])
    assert table["data"] == [list(row.values()) for row in tokens.standing_out]
