"""The stacks of a process that is blocked, stopped or gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from rlvr.telemetry import stacks
from rlvr.telemetry.stacks import Listener

PROGRAM = (
    "from rlvr.telemetry.stacks import Listener\n"
    "listener = Listener.begin()\n"
    "def stuck():\n"
    "    print(listener.pid, listener.descriptor, flush=True)\n"  # already in what must be told
)
BLOCKED = {
    "in a lock": "import threading\nthreading.Lock().acquire()\nthreading.Event().wait()\n",
    "in C, with the GIL": "import re\nre.match('(a+)+b', 'a' * 60)\n",
}


@pytest.fixture
def start():
    """``start(program)``: a process that listens and then runs the program."""
    processes = []

    def begin(program: str) -> Listener:
        body = "".join(f"    {line}\n" for line in program.splitlines())
        command = [sys.executable, "-c", f"{PROGRAM}{body}stuck()\n"]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return Listener(*map(int, processes[-1].stdout.readline().split()))

    yield begin
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize("how", ["in a lock", "in C, with the GIL"])
def test_a_blocked_process_tells_where(start, how):
    listener = start(BLOCKED[how])
    for _ in range(2):  # each time anew
        told = listener.ask()
        assert told.startswith("State: ")
        assert told.split("py-spy:")[0].count(" in stuck") == 1
    os.kill(listener.pid, 0)  # it goes on


def test_a_stopped_process_is_told_by_its_state(start):
    listener = start(BLOCKED["in a lock"])
    os.kill(listener.pid, signal.SIGSTOP)
    assert listener.ask().startswith("State: T (stopped)\nno answer within 2 s")


def test_a_process_that_is_gone_or_another_one_is_left_alone(start):
    listener = start("pass")
    while listener.ask() != stacks.GONE:  # it ends by itself
        pass
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert Listener(other.pid, 0).ask() == stacks.GONE
    other.communicate(b"\n")
    assert other.returncode == 0


def test_own_stacks_have_every_thread():
    told: list[str] = []

    def elsewhere() -> None:
        told.append(stacks.own())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert "in elsewhere" in told[0] and "test_own_stacks_have_every_thread" in told[0]
