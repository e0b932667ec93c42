"""When a stage is late, and who is."""

from __future__ import annotations

import pytest

from rlvr.config import TelemetryConfig
from rlvr.loop.watchdog import Watchdog, late
from rlvr.telemetry.run_folder import RunFolder
from rlvr.telemetry.timing import Stopwatch

WAITS = "State: S (sleeping)\n File distributed_c10d.py, line 1 in all_reduce"
WORKS = "State: R (running)\n File rank.py, line 1 in update"


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ({"rank 0": WAITS, "rank 1": WORKS, "worker 0": WORKS}, "rank 1"),
        ({"rank 0": WAITS, "rank 1": "State: T (stopped)\n", "worker 0": WORKS}, "rank 1"),
        ({"rank 0": WAITS, "rank 1": WAITS, "worker 0": "State: gone"}, "worker 0"),
        ({"rank 0": WORKS, "rank 1": WORKS}, "rank 0, rank 1"),
    ],
)
def test_who_keeps_the_others_waiting(told, named):
    assert late(told) == named


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("limit", "usual", "silent", "told"),
    [
        (None, 1.0, 299.0, 301.0),  # the floor
        (None, 100.0, 499.0, 501.0),  # five times the median
        (None, None, 1799.0, 1801.0),  # the first step
        (20.0, 100.0, 19.0, 21.0),
    ],
)
def test_a_stage_is_late_once(tmp_path, limit, usual, silent, told, capsys):
    watch = Stopwatch(clock := Clock())
    dog = Watchdog(TelemetryConfig(late_stage_s=limit), watch, RunFolder(tmp_path), dict)
    for _ in range(3 if usual else 0):
        with watch.stage("update"):
            clock.now += usual
        watch.lap()
    began = clock.now
    with watch.stage("update"):
        clock.now = began + silent
        dog._look()
        assert not capsys.readouterr().out
        clock.now = began + told
        dog._look()
        assert f"'update' is late: {told:.0f} s so far" in capsys.readouterr().out
        dog._look()
        assert not capsys.readouterr().out
    [file] = (tmp_path / "stacks").iterdir()
    assert "test_a_stage_is_late_once" in file.read_text()
    watch.lap()
    with watch.stage("update"):
        clock.now += 10_000
        dog._look()
    assert "'update' is late" in capsys.readouterr().out
    assert len(list((tmp_path / "stacks").iterdir())) == 2


def test_it_can_be_switched_off(tmp_path):
    config = TelemetryConfig(late_stage_s=0)
    with Watchdog(config, Stopwatch(), RunFolder(tmp_path), dict) as dog:
        assert not dog._thread.is_alive()
