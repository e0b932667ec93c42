"""A run through the telemetry: what its folder holds and what it prints."""

from __future__ import annotations

import asyncio
import json
import re

import numpy as np
import pytest
from omegaconf import OmegaConf

from rlvr.config import RunConfig, TelemetryConfig
from rlvr.errors import RunError
from rlvr.telemetry.run_log import Telemetry


@pytest.fixture
def config(folder) -> RunConfig:
    config = RunConfig()
    config.train.steps, config.train.output_dir = 4, str(folder.path)
    config.model.path, config.data.train = "model", ["rows.jsonl"]
    config.telemetry = TelemetryConfig(wandb="disabled", progress=False)
    return config


@pytest.fixture
def run(folder, config, make_group):
    """``run(first, last, evaluations)``: steps of a process that is killed unless it is the last.

    ``evaluations`` has accuracies by step.
    """

    async def steps(first: int, last: int, evaluations: dict[int, float], loss: float) -> None:
        telemetry = Telemetry(config.telemetry, folder)
        telemetry.start(config, first - 1)
        groups = [make_group([(4, "correct", 1.0), (2, "incorrect", 0.0)])]
        try:
            for step in range(first - 1, last + 1):
                if step >= first:
                    timings = {"time/step_s": 2.0, "time/rollout_s": 1.0}
                    metrics = {"update/loss": loss}
                    await telemetry.step(step, groups, np.zeros(2), metrics, timings)
                if step in evaluations:
                    results = {"accuracy": evaluations[step]}
                    await telemetry.evaluation(step, "greedy", results, groups)
            if last == config.train.steps:
                telemetry.summary({"steps": last, "rows_dropped": 0})
        finally:
            telemetry.close()

    def go(first: int, last: int, evaluations=None, loss: float = 0.5) -> None:
        asyncio.run(steps(first, last, evaluations or {}, loss))

    return go


def test_a_run_that_was_killed_and_resumed(folder, run, capsys):
    run(1, 3, {0: 0.25, 2: 0.5, 3: 0.625})
    assert not folder.summary.exists()
    run(3, 4, {4: 0.75})
    rows = folder.read_metrics()
    named = "evaluation/greedy/accuracy"
    assert [row["step"] for row in rows if named not in row] == [1, 2, 3, 4]
    assert [(row["step"], row[named]) for row in rows if named in row] == [
        (0, 0.25),
        (2, 0.5),
        (4, 0.75),
    ]
    assert json.loads(folder.summary.read_text()) == {
        "steps": 4,
        "rows_dropped": 0,
        "eval_before": 0.25,
        "eval_after": 0.75,
        "train_seconds": 8.0,
        "tokens_per_second": 3.0,
    }
    assert sorted(p.name for p in folder.path.glob("responses/*")) == [
        f"step_{step:06d}.parquet" for step in (1, 2, 3, 4)
    ]
    assert sorted(p.name for p in folder.path.glob("evaluation/greedy/*")) == [
        f"step_{step:06d}.parquet" for step in (0, 2, 4)
    ]
    lines = capsys.readouterr().out.splitlines()
    assert "evaluation after step 0: greedy  accuracy 25.0%" in lines
    assert any(re.match(r"step 3/4  reward 0\.500 .* 3 tok/s  eta \d+ s$", x) for x in lines)
    assert "accuracy             25.0% -> 75.0%" in lines


def test_the_configuration_is_kept_whole(folder, config, run):
    run(1, 1)
    kept = OmegaConf.load(folder.config)
    assert kept == OmegaConf.structured(config)


def test_what_is_no_number_is_shown_and_recorded(folder, run, capsys):
    run(1, 1, loss=float("nan"))
    [row] = folder.read_metrics()
    assert row["update/loss"] is None and row["nonfinite"] == 1
    assert "loss     nan  nonfinite 1" in capsys.readouterr().out


def test_a_record_that_cannot_be_written_ends_the_run(folder, config):
    telemetry = Telemetry(config.telemetry, folder)
    telemetry.start(config)
    folder.metrics.symlink_to("/dev/full")
    with pytest.raises(RunError, match=r"metrics\.jsonl could not be written.*No space left"):
        asyncio.run(telemetry.evaluation(0, "greedy", {"accuracy": 0.5}))
    folder.metrics.unlink()
    telemetry.close()


def test_responses_that_cannot_be_written_are_told_at_the_end(folder, run, capsys):
    (folder.path / "responses").write_text("a file where a folder must be")
    run(1, 1)
    assert "telemetry: " in (told := capsys.readouterr().out) and "log_responses=false" in told


def test_steps_count_from_one(run):
    with pytest.raises(ValueError, match="steps count from 1, got 0"):
        run(0, 0)
