"""The verifiers' benchmark in a small form: every row is there; the report is shown."""

from __future__ import annotations

import asyncio
import importlib
import re
from pathlib import Path

import pytest


@pytest.mark.usefixtures("ray_here")
def test_small_form_fills_its_table(monkeypatch, capsys):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])
    bench = importlib.import_module("bench.verifiers")
    rows = asyncio.run(bench.report(scale=20))
    with capsys.disabled():
        print(f"\nverifiers, a small sample while the tests run:\n\n{bench.table(rows)}\n")
    assert sum(bool(row.goal) for row in rows) == 6
    for row in rows:
        assert re.fullmatch(r"\d+/s|[\d.]+ m?s", row.measured), row
        if row.measured.endswith("/s"):
            assert int(row.measured[:-2]) > 0, row
