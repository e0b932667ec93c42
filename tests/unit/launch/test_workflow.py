"""The workflow calls what a person calls, and keeps an environment as long as setup.sh would."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[3]


def test_the_kept_environment_is_that_of_the_same_files():
    workflow = yaml.safe_load((ROOT / ".github/workflows/checks.yml").read_text())
    job = workflow["jobs"]["checks"]
    assert job["steps"][-1]["run"] == "bash .ci/run"
    [cache] = [step["with"] for step in job["steps"] if "cache" in step.get("uses", "")]
    setup = (ROOT / "launch/setup.sh").read_text()
    [inputs] = re.findall(r"^inputs=\((.*)\)$", setup, re.M)
    lock = f"launch/lock/{job['env']['RLVR_PROFILE']}.txt"
    assert set(re.findall(r"'([^']+)'", cache["key"])) == {
        word.replace("$lock", lock).strip('"') for word in inputs.split()
    }
