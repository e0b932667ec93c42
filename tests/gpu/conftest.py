"""What the checks of a GPU machine share.

A check's docstring is its name in the table of ``check.py``; what follows "If not:" says what to
do where it fails.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = os.environ.get("RLVR_CHECK_ROWS")  # where check.py reads


@cache
def gpus() -> int:
    """As the driver counts them: one that torch cannot use is a failure and not a skip."""
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    count = sum(row.startswith("GPU ") for row in listed.stdout.splitlines())
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join("x" * count))
    return min(count, len([name for name in visible.split(",") if name]))


@cache
def torch_sees_them() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session")
def need():
    """``need("vllm", count=2)`` skips with a word what this machine cannot try; returns its GPUs.

    ``usable=False``: they need only be there.
    """

    def check(*packages: str, count: int = 1, usable: bool = True) -> int:
        if gpus() < count:
            there = "there is none" if gpus() == 0 else f"there is {gpus()}"
            pytest.skip(f"needs {count} GPU{'s' * (count > 1)}, {there}")
        if missing := [p for p in packages if importlib.util.find_spec(p) is None]:
            pytest.skip(f"needs {', '.join(missing)}")
        if usable and not torch_sees_them():
            pytest.skip("torch can use no GPU here")
        return gpus()

    return check


@pytest.fixture
def figures(record_property):
    """``figures("3 GB/s")``: what the table says of a check that works."""
    return lambda text: record_property("figures", text)


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """``program(*arguments, within_s=60)``: runs Python, returns the JSON that it prints last."""
    logs = Path(os.environ.get("RLVR_CHECK_LOGS") or tmp_path_factory.mktemp("logs"))

    def run(*arguments: str, within_s: float, folder: Path = ROOT, **environment: str):
        log = logs / f"{time.time():.3f}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                stdout=output,
                stderr=output,
                cwd=folder,
                env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
                start_new_session=True,
            )
            try:
                code = process.wait(within_s)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                end(process)
        text = log.read_text(errors="replace")
        told = [row for row in text.splitlines() if row.strip()]
        assert code is not None, f"not done within {within_s:.0f} s ({log.name})"
        assert code == 0, f"{culprit(told)} ({log.name})"
        _, opening, found = f"\n{text}".rpartition("\n{")
        return json.JSONDecoder().raw_decode("{" + found)[0] if opening else {}

    return run


def end(process: subprocess.Popen) -> None:
    """With all that it started, which may close what it has first."""
    for number, wait_s in ((signal.SIGINT, 20.0), (signal.SIGKILL, 10.0)):
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(wait_s)
            except subprocess.TimeoutExpired:
                pass


def culprit(told: list[str]) -> str:
    """The line of a log that says most about the end."""
    errors = [row for row in told if "Error" in row and not row.startswith(" ")]
    return (errors or told or ["no word"])[-1].strip()[:300]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Write the check's row."""
    report = yield
    if ROWS and (report.when == "call" or (report.when == "setup" and not report.passed)):
        name, _, remedy = (item.function.__doc__ or item.name).partition("If not:")
        variant = f", {item.callspec.id}" if hasattr(item, "callspec") else ""
        told = dict(report.user_properties).get("figures", "")
        if report.skipped:
            told = str(report.longrepr[2]).removeprefix("Skipped: ")
        elif report.failed:
            told = call.excinfo.exconly().splitlines()[0].removeprefix("AssertionError: ")
        result = "works" if report.passed else "not tried" if report.skipped else "FAILS"
        row = {
            "check": " ".join(name.split()).rstrip(".") + variant,
            "result": result,
            "told": told,
            "remedy": " ".join(remedy.split()),
        }
        with open(ROWS, "a") as file:
            file.write(json.dumps(row) + "\n")
    return report


def pytest_runtest_setup(item):
    """Leave out what would take the whole beyond its time."""
    if time.time() > float(os.environ.get("RLVR_CHECK_LAST_START") or "inf"):
        pytest.skip("the time is up; call pytest with this file alone")
