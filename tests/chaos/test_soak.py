"""The soak in its shortest form: a tiny model, a few faults, all checks but that of accuracy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_what_a_run_of_faults_comes_to(tiny_model, tmp_path, seed):
    rows = [{"problem": f"w{i} w{i + 1}", "answer": ".*w5 .*"} for i in range(3, 60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = [
        *(f"model.path={tiny_model(True)}", f"data.train=[{tmp_path / 'rows.jsonl'}]"),
        *(f"data.eval=[{tmp_path / 'rows.jsonl'}]", "data.template=none", "data.verifier=regex"),
        *("train.prompts_per_step=8", "rollout.max_response_tokens=24", "rollout.workers=1"),
    ]
    command = [sys.executable, "-m", "tests.chaos.soak", "0.4", str(seed % 1000), *overrides]
    options = ["--every", "4", "7", "--output", str(tmp_path)]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| each group trained on once | holds |" in done.stdout
