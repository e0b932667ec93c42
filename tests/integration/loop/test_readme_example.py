"""The README's credit method, as a user's file outside of the package, from the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_readmes_method_trains(command_line, tmp_path):
    readme = (ROOT / "README.md").read_text()
    [code] = re.findall(r"```python\n(# my_methods/my_credit\.py\n.*?)```", readme, re.DOTALL)
    (tmp_path / "my_methods").mkdir()
    (tmp_path / "my_methods" / "my_credit.py").write_text(code)
    command_line(
        "credit=my_methods.my_credit",
        "credit.strength=0.3",
        "rollout.group_size=4",
        "train.steps=2",
        "train.prompts_per_step=4",
        "learner.ranks=2",
        f"train.output_dir={tmp_path}/run",
        timeout_s=240,
        PYTHONPATH=str(tmp_path),
    )
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [row for row in map(json.loads, lines) if "rollout/reward_mean" in row]
    assert len(steps) == 2
    assert all(1.0 <= row["credit/largest"] <= 1.3 for row in steps)
