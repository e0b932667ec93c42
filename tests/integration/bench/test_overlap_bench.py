"""The simulation in small: run-ahead keeps engines at work, and staleness bounds it."""

from __future__ import annotations

import asyncio
import importlib
from pathlib import Path

import pytest


@pytest.mark.parametrize("order", ["prompt", "finished"])
def test_running_ahead_keeps_engines_at_work(order, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    bench = importlib.import_module("bench.overlap")
    for name, value in {"PROMPTS": 8, "FIRST": 1, "LAST": 6, "STEPS": 9}.items():
        monkeypatch.setattr(bench, name, value)
    rows = []
    for staleness in (0, 2):
        with asyncio.Runner(loop_factory=bench.VirtualTime) as runner:
            rows.append(runner.run(bench.simulated(8, 0.5, staleness, order, dynamic=False)))
    synchronous, ahead = rows
    assert synchronous.lag_max == 0 < ahead.lag_max <= 2
    assert ahead.empty < synchronous.empty and ahead.step_s < synchronous.step_s
    assert 0 <= ahead.idle <= ahead.empty < 1
