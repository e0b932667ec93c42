"""The GPU benchmark in its tiny form: every row is there and every number is one."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_tiny_form_fills_its_table(tmp_path):
    """Under the plain engine; DeepSpeed's stages have tests of their own."""
    command = [sys.executable, "tests/bench/gpu.py", "--size", "tiny", "--engine", "plain"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "rows.json")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    rows = {r["method"]: r for r in json.loads((tmp_path / "rows.json").read_text())["rows"]}
    bare = ["bare forward", "bare forward+backward"]
    methods = {"uniform", "delta", "thr", "entropy_top", "random", "oar_g", "oar_p, 8 positions"}
    assert methods | set(bare) <= set(rows)
    for name, row in rows.items():
        for key, value in row.items():
            assert isinstance(value, str) or (math.isfinite(value) and value >= 0), (name, key)
        if name not in bare:
            assert {"score_s", "credit_s", "update_s", "credit_share", "update_mfu"} <= set(row)
    stores = [r["off"] for name, r in rows.items() if "off" in r]
    assert len(stores) == 3 and max(stores) < 1e-4
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines[-len(rows) :]] == ["tiny"] * len(rows), "the table is last"
