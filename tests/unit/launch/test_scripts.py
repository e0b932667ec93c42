"""launch/quickstart.sh, launch/test.sh and .ci/run with stand-ins for what they call."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CHECKS = ("ruff", "mypy", "lint-imports")


def program(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def clone(tmp_path):
    for name in ("launch/environment.sh", "launch/quickstart.sh", "launch/test.sh", ".ci/run"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    program(tmp_path / "launch/setup.sh", "echo set up")
    program(tmp_path / "rlvr/quickstart/model.py", "")
    program(tmp_path / ".venv/bin/python", 'echo "python $*"')
    for name in CHECKS:
        program(tmp_path / ".venv/bin" / name, f'echo "{name} $*"')
    return tmp_path


def run(clone: Path, script: str, *arguments: str, **variables: str):
    command = ["bash", str(clone / script), *arguments]
    return subprocess.run(
        command, env=os.environ | variables, capture_output=True, text=True, timeout=60
    )


def test_the_quickstart_passes_overrides_on(clone):
    result = run(clone, "launch/quickstart.sh", "train.steps=5", "data.system_prompt=two words")
    assert result.returncode == 0
    python = [line for line in result.stdout.splitlines() if line.startswith("python")]
    assert python == [
        "python -m rlvr.quickstart --output outputs/quickstart",
        "python -m rlvr.train +recipe=quickstart train.steps=5 data.system_prompt=two words",
    ]


def test_the_base_model_is_built_again_only_after_a_change(clone):
    built = clone / "outputs/quickstart/warmup.json"
    built.parent.mkdir(parents=True)
    built.touch()
    os.utime(clone / "rlvr/quickstart/model.py", (0, 0))
    assert "-m rlvr.quickstart" not in run(clone, "launch/quickstart.sh").stdout
    os.utime(built, (1, 1))
    (clone / "rlvr/quickstart/model.py").touch()
    assert "-m rlvr.quickstart" in run(clone, "launch/quickstart.sh").stdout


def test_the_quickstart_exits_with_the_runs_code(clone):
    program(clone / ".venv/bin/python", "[[ $* != *rlvr.train* ]] || exit 7")
    result = run(clone, "launch/quickstart.sh")
    assert result.returncode == 7 and "exit code 7" in result.stdout


@pytest.mark.parametrize("stage", ["setup.sh", "python"])
def test_the_quickstart_ends_where_a_stage_fails(clone, stage):
    program(clone / ("launch/setup.sh" if stage == "setup.sh" else ".venv/bin/python"), "exit 3")
    result = run(clone, "launch/quickstart.sh")
    assert result.returncode == 3 and "RLVR" not in result.stdout


def test_pytest_gets_the_arguments_and_no_cluster_of_the_users(clone):
    program(clone / ".venv/bin/python", 'echo "$* ${RAY_ADDRESS-none} $HF_HUB_OFFLINE"')
    result = run(clone, "launch/test.sh", "tests/unit", "-k", "a b", RAY_ADDRESS="http://head")
    assert result.stdout.endswith("-m pytest -ra --durations=15 tests/unit -k a b none 1\n")


SUMMARY = "=========== 1 failed, 20 passed, 1 skipped in 61.05s (0:01:01) ==========="


def test_every_check_runs_and_the_summary_comes_last(clone):
    program(clone / ".venv/bin/python", f"echo '{SUMMARY}'")
    result = run(clone, ".ci/run")
    assert result.returncode == 0, result.stdout
    for call in ("ruff check .", "ruff format --check .", "mypy rlvr", "lint-imports"):
        assert f"== {call}\n{call}" in result.stdout
    assert result.stdout.splitlines()[-2:] == ["== 0 of 5 checks failed", SUMMARY]


@pytest.mark.parametrize("broken", ["python", *CHECKS])
def test_a_failing_check_fails_the_whole_and_stops_nothing(clone, broken):
    program(clone / ".venv/bin/python", f"echo '{SUMMARY}'")
    program(clone / ".venv/bin" / broken, f"echo '{SUMMARY}'; exit 1")
    result = run(clone, ".ci/run")
    assert result.returncode == 1
    assert "== lint-imports" in result.stdout
    failed = "bash launch/test.sh" if broken == "python" else broken
    assert result.stdout.splitlines()[-2].strip().startswith(failed)
    assert result.stdout.splitlines()[-1] == SUMMARY


def test_tests_that_do_not_finish_are_a_failure(clone):
    program(clone / "launch/setup.sh", "exit 1")
    result = run(clone, ".ci/run")
    assert result.returncode == 1
    assert result.stdout.splitlines()[-1] == "pytest did not finish"
