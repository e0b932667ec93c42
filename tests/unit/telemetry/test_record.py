"""A run read back from its folder."""

from __future__ import annotations

import json

import pytest

from rlvr.errors import RunFolderError
from rlvr.telemetry.record import RunRecord


def step(number: int, **more: float) -> dict[str, float]:
    row = {"step": number, "rollout/reward_mean": number / 10, "time/step_s": 2.0}
    return row | {"throughput/tokens_per_second": 50.0 * number} | more


def evaluation(number: int, name: str, accuracy: float | None) -> dict[str, float | None]:
    return {"step": number, f"evaluation/{name}/accuracy": accuracy}


@pytest.fixture
def read(folder):
    def write_and_read(*rows: dict, **files: str) -> RunRecord:
        folder.append(folder.metrics, rows)
        for name, text in files.items():
            getattr(folder, name).write_text(text)
        return RunRecord.read(folder.path)

    return write_and_read


def test_rows_are_told_apart(read):
    config = "train: {steps: 9}"
    record = read(step(1), evaluation(1, "greedy", 0.5), step(2), config=config)
    assert [row["step"] for row in record.steps] == [1, 2]
    assert len(record.evaluations) == 1
    assert record.planned == 9 and record.summary is None
    assert record.series("rollout/reward_mean") == ([1, 2], [0.1, 0.2])
    assert record.seconds == 4.0
    assert record.tokens_per_second == 75.0  # tokens over seconds, no mean of rates
    assert record.stages == {"step": 2.0}


def test_rates_are_weighted_by_time(read):
    slow = step(1, **{"time/step_s": 9.0, "throughput/tokens_per_second": 10.0})
    fast = step(2, **{"time/step_s": 1.0, "throughput/tokens_per_second": 110.0})
    assert read(slow, fast).tokens_per_second == 20.0


def test_the_first_evaluation_is_not_forgotten_by_a_resumed_run(read):
    """The rows before the checkpoint were written by a process that is gone."""
    rows = [evaluation(0, "greedy", 0.25), evaluation(0, "avg_at_8", 0.125)]
    rows += [evaluation(8, "greedy", 0.75), evaluation(8, "avg_at_8", 0.5)]
    record = read(*rows, step(1))
    assert record.before_after == {"accuracy": (0.25, 0.75), "avg_at_8": (0.125, 0.5)}
    assert record.outcome == {
        "eval_before": 0.25,
        "eval_after": 0.75,
        "avg_at_8_before": 0.125,
        "avg_at_8_after": 0.5,
        "train_seconds": 2.0,
        "tokens_per_second": 50.0,
    }


def test_of_a_repeated_evaluation_the_last_word_counts(read):
    rows = [evaluation(0, "greedy", 0.1), evaluation(4, "greedy", 0.2)]
    record = read(*rows, evaluation(4, "greedy", 0.3), evaluation(4, "greedy", None))
    assert record.series("evaluation/greedy/accuracy") == ([0, 4], [0.1, 0.3])
    assert record.before_after == {"accuracy": (0.1, 0.3)}


def test_sources_stay_out_of_the_summary(read):
    record = read({"step": 0, "evaluation/greedy/aime/accuracy": 0.5})
    assert record.before_after == {"greedy/aime": (0.5, 0.5)}
    assert set(record.outcome) == {"train_seconds", "tokens_per_second"}


@pytest.mark.parametrize(("count", "first", "last"), [(1, 1, 1), (9, 1, 9), (40, 2.5, 38.5)])
def test_ends_are_means_over_a_tenth(read, count, first, last):
    record = read(*(step(i) for i in range(1, count + 1)))
    assert record.ends("rollout/reward_mean") == pytest.approx((first / 10, last / 10))
    assert record.ends("update/loss") is None


def test_a_run_that_has_only_begun(read):
    record = read(config="train: {steps: 3}")
    assert record.steps == [] and record.tokens_per_second is None and record.seconds == 0
    assert record.outcome["tokens_per_second"] == 0.0


def test_what_is_no_run_is_told(tmp_path, read):
    with pytest.raises(RunFolderError, match="not a run's folder"):
        RunRecord.read(tmp_path)
    with pytest.raises(RunFolderError, match=r"summary\.json or config\.yaml is damaged"):
        read(step(1), summary=json.dumps({"steps": 1})[:-1])
