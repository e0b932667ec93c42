"""launch/check_gpu.sh where there is no GPU: a table of what could not be tried, and its code."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
NAMES = ("driver", "memory", "attention, bf16", "attention, fp32", "sleeps", "Scoring, credit")
NAMES += ("Quickstart", "0.5 B", "Publish", "plan", "Two GPUs an engine")


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def clone(tmp_path):
    """The script and what it runs, with stand-ins for the set-up and for the environment."""
    (tmp_path / "launch").mkdir()
    for name in ("check_gpu.sh", "environment.sh"):
        shutil.copy(ROOT / "launch" / name, tmp_path / "launch")
    shutil.copytree(ROOT / "tests" / "gpu", tmp_path / "tests" / "gpu")
    program(tmp_path / "launch/setup.sh", "echo set up")
    program(tmp_path / ".venv/bin/python", f'exec {sys.executable} "$@"')
    return tmp_path


def run(clone: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        ["bash", str(clone / "launch/check_gpu.sh")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_without_a_gpu_all_is_named_and_nothing_tried(clone):
    done = run(clone)
    assert done.returncode == 2, done.stdout + done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("not tried")]
    for name in NAMES:
        assert any(name in row for row in rows), f"{name}:\n{done.stdout}"
    assert "0 work, 0 fail" in done.stdout and "FAILS" not in done.stdout


def test_a_failing_check_says_what_to_do(clone):
    for file in (clone / "tests" / "gpu").glob("test_*.py"):
        file.write_text("def test_it():\n    '''A thing.\n\n    If not: mend it.\n    '''\n")
    broken = clone / "tests" / "gpu" / "test_speed.py"
    broken.write_text(broken.read_text() + "    assert 1 + 1 == 3, 'one and one is two'\n")
    (clone / "tests" / "gpu" / "test_engine.py").write_text("import os\nos.abort()\n")
    done = run(clone)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "A thing: one and one is two" in done.stdout
    assert "What to do: mend it." in done.stdout
    assert "test_engine.py: ended with code -6" in done.stdout
    assert "3 work, 2 fail, 0 could not be tried" in done.stdout


def test_where_nothing_can_be_installed_it_goes_on_with_what_is_there(clone):
    program(clone / "launch/setup.sh", "exit 1")
    program(clone / ".venv/bin/python", "exit 1")
    program(clone / ".venv/bin/python3", f'exec {sys.executable} "$@"')
    done = run(clone)
    assert "going on with what this machine has" in done.stdout
    assert done.returncode == 2 and "A driver for this torch" in done.stdout
