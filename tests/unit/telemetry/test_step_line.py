"""The line of a step keeps its columns, and to the width."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.telemetry import figures
from rlvr.telemetry.step_line import step_line

ROW = {
    "rollout/reward_mean": 0.5,
    "rollout/accuracy": 0.5,
    "length/mean": 123.4,
    "groups/with_spread": 0.75,
    "update/loss": -0.0123,
    "update/entropy": 1.25,
    "update/grad_norm": 0.5,
    "mismatch/kl": 1.5e-4,
    "time/step_s": 1.25,
    "time/rollout_s": 0.75,
    "time/update_s": 0.4375,
    "time/publish_s": 0.0001,
    "throughput/tokens_per_second": 1234.5,
}


def test_in_full():
    assert step_line(7, 200, ROW, eta_s=211) == (
        "step   7/200  reward 0.500  acc  50.0%  len   123.4  spread  75%  loss -0.0123  "
        "entropy 1.250  grad  0.50  mismatch 1.5e-04  1.25 s  (rollout 0.75 update 0.44)  "
        "1.2k tok/s  eta 3:31"
    )


def test_columns_stay_in_place():
    other = ROW | {"rollout/accuracy": 1.0, "update/loss": 0.5, "length/mean": 20480.0}
    one, two = (step_line(n, 200, row) for n, row in ((7, ROW), (180, other)))
    assert [one.index(w) for w in ("reward", "acc", "len", "loss", "tok/s")] == [
        two.index(w) for w in ("reward", "acc", "len", "loss", "tok/s")
    ]


@given(st.integers(1, 300))
def test_the_least_important_goes_first(width):
    order = ("(rollout", "grad", "loss", "mismatch", "entropy")
    line = step_line(7, 200, ROW, width=width)
    kept = [word in line for word in order]
    assert kept == sorted(kept)
    assert len(line) <= width or not any(kept)
    assert line.startswith("step   7/200  reward 0.500  acc  50.0%  len   123.4  spread  75%")


def test_what_is_no_number_is_shown_as_such():
    line = step_line(1, 1, ROW | {"update/loss": None, "nonfinite": 1})
    assert "loss     nan" in line and "nonfinite 1" in line


def test_a_skipped_update_is_shown():
    assert "skipped 2" in step_line(1, 1, ROW | {"update/skipped": 2.0})
    assert "skipped" not in step_line(1, 1, ROW | {"update/skipped": 0.0})
    assert step_line(1, 1, {}) == "step 1/1"


@pytest.mark.parametrize(
    ("show", "value", "text"),
    [
        (figures.percent, 0.4123, "41.2%"),
        (figures.compact, 950, "950"),
        (figures.compact, 4100, "4.1k"),
        (figures.compact, 1.2e6, "1.2M"),
        (figures.compact, 3e9, "3.0G"),
        (figures.seconds, 1.119, "1.12 s"),
        (figures.seconds, 83.44, "83.4 s"),
        (figures.duration, 45.4, "45 s"),
        (figures.duration, 59.6, "1:00"),
        (figures.duration, 211, "3:31"),
        (figures.duration, 3723, "1:02:03"),
    ],
)
def test_figures(show, value, text):
    assert show(value) == text
    assert show(None) == "-"


def test_a_metric_reads_as_its_name_says():
    assert figures.figure("evaluation/greedy/accuracy", 0.5) == "50.0%"
    assert figures.figure("avg_at_8", 0.25) == "25.0%"
    assert figures.figure("update/active_share", 0.125) == "12.5%"
    assert figures.figure("update/loss", 0.123456) == "0.1235"
    assert figures.figure("update/loss", None) == "-"
