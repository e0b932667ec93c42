"""The README's credit method, as a user's file outside of the package, from the command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_readmes_method_trains(tiny_model, tmp_path):
    readme = (ROOT / "README.md").read_text()
    [code] = re.findall(r"```python\n(# my_methods/my_credit\.py\n.*?)```", readme, re.DOTALL)
    (tmp_path / "my_methods").mkdir()
    (tmp_path / "my_methods" / "my_credit.py").write_text(code)
    rows = [{"problem": f"w{i} w{i + 1}", "answer": "w5"} for i in range(3, 20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    arguments = [
        "credit=my_methods.my_credit",
        "credit.strength=0.3",
        f"model.path={tiny_model(True)}",
        "model.dtype=float32",
        f"data.train=[{tmp_path}/rows.jsonl]",
        "data.template=none",
        "data.verifier=exact",
        "data.max_prompt_tokens=16",
        "rollout.max_response_tokens=12",
        "rollout.group_size=4",
        "train.steps=2",
        "train.prompts_per_step=4",
        "train.overlong_buffer=11",  # random text earns no reward; its length spreads the groups
        "learner.ranks=2",
        "telemetry.wandb=disabled",
        f"train.output_dir={tmp_path}/run",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "rlvr.train", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "RAY_ADDRESS": ""},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [row for row in map(json.loads, lines) if "rollout/reward_mean" in row]
    assert len(steps) == 2
    assert all(1.0 <= row["credit/largest"] <= 1.3 for row in steps)
