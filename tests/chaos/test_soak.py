"""Some minutes of ``soak.sh``: faults one after the other, among them the loss of the driver."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

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
