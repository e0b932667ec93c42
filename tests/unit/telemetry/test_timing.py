"""Where the time of a step goes, by a clock that is moved by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.telemetry.timing import Stopwatch


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_stages_in_order_of_first_use(clock):
    watch = Stopwatch(clock)
    for name, seconds in (("rollout", 2.0), ("update", 1.0), ("rollout", 0.5), ("nothing", 0.0)):
        with watch.stage(name):
            clock.now += seconds
    clock.now += 4.0
    expected = {"time/step_s": 7.5, "time/rollout_s": 2.5, "time/update_s": 1.0}
    assert watch.lap() == expected and list(watch.lap()) == ["time/step_s"]


def test_overlap_counts_once_and_a_lap_cuts(clock):
    watch = Stopwatch(clock)
    one, two = watch.stage("rollout"), watch.stage("rollout")
    one.__enter__()
    clock.now += 1.0
    two.__enter__()
    clock.now += 1.0
    one.__exit__(None, None, None)
    clock.now += 1.0
    assert watch.lap() == {"time/step_s": 3.0, "time/rollout_s": 3.0}
    clock.now += 2.0
    two.__exit__(None, None, None)
    clock.now += 5.0
    assert watch.lap() == {"time/step_s": 7.0, "time/rollout_s": 2.0}


def test_a_stage_that_fails_is_counted(clock):
    watch = Stopwatch(clock)
    with pytest.raises(ZeroDivisionError), watch.stage("update"):
        clock.now += 1.0
        raise ZeroDivisionError
    assert watch.lap()["time/update_s"] == 1.0


@given(st.lists(st.sampled_from(["a in", "a out", "b in", "b out", "lap"]), max_size=30))
def test_no_stage_is_longer_than_its_lap(events):
    clock = Clock()
    watch = Stopwatch(clock)
    inside: dict[str, list] = {"a": [], "b": []}
    busy = dict.fromkeys(inside, 0.0)
    for event in [*events, "lap"]:
        clock.now += 1.0
        for name, stages in inside.items():
            busy[name] += bool(stages)
        name, _, what = event.partition(" ")
        if what == "in":
            inside[name].append(watch.stage(name))
            inside[name][-1].__enter__()
        elif what == "out" and inside[name]:
            inside[name].pop(0).__exit__(None, None, None)
        elif event == "lap":
            found = watch.lap()
            assert {n: found.get(f"time/{n}_s", 0.0) for n in busy} == busy
            assert max(busy.values()) <= found["time/step_s"]
            busy = dict.fromkeys(inside, 0.0)
