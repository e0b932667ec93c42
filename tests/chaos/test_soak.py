"""Some minutes of ``soak.sh``: faults one after the other, among them the loss of the driver."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.chaos.soak.memory import Life

ROOT = Path(__file__).parents[2]
SEED = 103  # seven faults of seven kinds, in the middle a driver's with a damaged checkpoint


@pytest.mark.timeout(1500)
def test_a_run_outlives_faults_of_many_kinds(tiny_model, tmp_path):
    rows = [{"problem": f"w{i} w{i + 1}", "answer": ".*w5 .*"} for i in range(3, 60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    soak = subprocess.run(
        [
            *(sys.executable, "-m", "tests.chaos.soak", "1.5", str(SEED)),
            *("--every", "8", "14", "--output", str(tmp_path / "soak")),
            *(f"model.path={tiny_model(True)}", f"data.train=[{tmp_path}/rows.jsonl]"),
            *(f"data.eval=[{tmp_path}/rows.jsonl]", "data.template=none", "data.verifier=regex"),
            *("train.prompts_per_step=4", "evaluation.limit=4"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert soak.returncode == 0, soak.stdout[-6000:] + soak.stderr[-2000:]
    done = re.findall(r"after step \d+: (.*) \(", soak.stdout)
    assert len(done) >= 4, soak.stdout
    assert soak.stdout.count("| holds |") == 6


@pytest.mark.parametrize(
    ("mib", "a_minute", "rise", "grows"),
    [
        (1800, 0, 0.1, False),
        (1800, 12, 0.1, True),
        (400, 0, 0.0, True),  # of its own
        (40, 0, 0.1, False),
        (40, 4, 0.1, True),
    ],
)
def test_memory_that_goes_on_growing_is_told_from_a_rise(seed, mib, a_minute, rise, grows):
    """Five minutes of a process that jumps by 5 % once, and whose moments differ by 1 %."""
    at = np.arange(60.0, 360.0, 5.0)
    jump = 0.05 * mib * (at > 240)
    jitter = np.random.default_rng(seed).choice([0.0, 0.01 * mib], len(at))
    assert Life(at, mib + a_minute * at / 60 + jump + jitter, rise).grows == grows
