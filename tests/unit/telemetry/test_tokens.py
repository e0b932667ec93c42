"""The tokens that stand out, as a reader finds them in a run's folder."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest

from rlvr.config import RunConfig, TelemetryConfig
from rlvr.telemetry.run_folder import RunFolder
from rlvr.telemetry.run_log import Telemetry
from rlvr.telemetry.tokens import token_rows
from rlvr.types import Group, Outcome, Prompt, RankedTokens, Response, Sample, Verdict


def decode(sequences):
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


GROUPS = [group("a", 4, 20), group("b", 2)]
ADVANTAGES = np.array([-1.0, 1.0, 0.5])
TOKENS = RankedTokens(np.array([1, 2, 0]), np.array([19, 0, 2]), np.array([1.5, 1.25, 0.25]))


def test_rows():
    rows = token_rows(TOKENS, GROUPS, ADVANTAGES, decode)
    assert [r["side"] for r in rows] == ["raised", "raised", "lowered"]
    assert [r["token"] for r in rows] == ["w19", "w0", "w2"]
    assert [r["before"] for r in rows] == ["w11 w12 w13 w14 w15 w16 w17 w18", "", "w0 w1"]
    assert [(r["group"], r["sample"], r["position"]) for r in rows] == [
        (0, 1, 19),
        (1, 0, 0),
        (0, 0, 2),
    ]
    assert [(r["coefficient"], r["advantage"]) for r in rows] == [
        (1.5, 1.0),
        (1.25, 0.5),
        (0.25, -1.0),
    ]
    nothing = RankedTokens(*(x[:0] for x in (TOKENS.response, TOKENS.position, TOKENS.coefficient)))
    assert token_rows(nothing, GROUPS, ADVANTAGES, decode) == []


@pytest.mark.parametrize("logged", [True, False])
def test_a_run_keeps_them_and_a_resumed_one_forgets_what_it_repeats(tmp_path, logged, capsys):
    folder = RunFolder.create(tmp_path / "run")
    config = RunConfig()
    config.train.steps, config.train.output_dir = 3, str(folder.path)
    config.telemetry = TelemetryConfig(wandb="disabled", progress=False, log_responses=logged)
    rows = token_rows(TOKENS, GROUPS, ADVANTAGES, decode)

    async def steps(first: int, last: int) -> None:
        telemetry = Telemetry(config.telemetry, folder)
        telemetry.start(config, first - 1)
        for step in range(first, last + 1):
            await telemetry.step(step, GROUPS, ADVANTAGES, {}, {"time/step_s": 1.0}, rows)
        telemetry.close()

    asyncio.run(steps(1, 3))
    asyncio.run(steps(2, 2))
    if not logged:
        assert not folder.tokens.exists()
        return
    kept = [json.loads(line) for line in folder.tokens.read_text().splitlines()]
    assert [r["step"] for r in kept] == [1, 1, 1, 2, 2, 2]
    assert kept[3] == {"step": 2, **rows[0]}


def test_wandb_gets_a_table(tmp_path, capsys):
    wandb = pytest.importorskip("wandb")
    folder = RunFolder.create(tmp_path / "run")
    config = RunConfig()
    config.train.steps, config.train.output_dir = 1, str(folder.path)
    config.telemetry = TelemetryConfig(wandb="offline", progress=False, log_responses=True)
    rows = token_rows(TOKENS, GROUPS, ADVANTAGES, decode)

    async def step() -> None:
        telemetry = Telemetry(config.telemetry, folder)
        telemetry.start(config)
        await telemetry.step(1, GROUPS, ADVANTAGES, {}, {"time/step_s": 1.0}, rows)
        telemetry.close()

    asyncio.run(step())
    assert wandb.run is None
    assert "turned off" not in capsys.readouterr().out
    [file] = (tmp_path / "run" / "wandb").glob("offline-run-*/files/media/table/credit/tokens*")
    table = json.loads(file.read_text())
    assert table["columns"] == list(rows[0])
    assert table["data"] == [list(row.values()) for row in rows]
