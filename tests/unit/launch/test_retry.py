"""launch/retry.py: what is started again, and what is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

RETRY = Path(__file__).parents[3] / "launch" / "retry.py"
PROGRAM = """
import os, signal, sys, time
ending = sys.argv[1]
if ending != "waits":
    print(*sys.argv[2:], flush=True)
if "train.resume=auto" in sys.argv and ending.endswith("once"):
    sys.exit(0)
if ending.startswith("killed"):
    os.kill(os.getpid(), signal.SIGKILL)
if ending == "waits":
    try:
        print(*sys.argv[2:], flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        sys.exit(1)
sys.exit(int(ending.removesuffix("once")))
"""


def start(times: int, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(RETRY), str(times), sys.executable, "-c", PROGRAM, *words],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def lines(process: subprocess.Popen[str]) -> list[str]:
    out, _ = process.communicate(timeout=20)
    return [line for line in out.splitlines() if not line.startswith("retry: ")]


@pytest.mark.parametrize(
    ("ending", "starts", "code"),
    [
        ("0", 1, 0),
        ("killedonce", 2, 0),
        ("1once", 2, 0),
        ("killed", 3, 137),
        ("1", 3, 1),
        ("2", 1, 2),  # a configuration that cannot run
        ("130", 1, 130),  # interrupted
    ],
)
def test_what_is_started_again(ending, starts, code):
    process = start(2, ending, "train.resume=/other", "train.steps=3")
    first = "train.resume=/other train.steps=3"
    assert lines(process) == [first, *[f"{first} train.resume=auto"] * (starts - 1)]
    assert process.returncode == code


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_is_stopped_is_not_started_again(number):
    """Ctrl-C reaches both at once, as a job's stop does; SIGTERM is passed on."""
    process = start(2, "waits", "x")
    assert process.stdout and process.stdout.readline() == "x\n"
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.terminate()
    assert lines(process) == []
    assert process.returncode == {signal.SIGINT: 1, signal.SIGTERM: 143}[number]


def test_the_run_does_not_outlive_it():
    process = start(2, "waits", "x")
    assert process.stdout and process.stdout.readline() == "x\n"
    [run] = psutil.Process(process.pid).children()
    process.kill()
    run.wait(5)
