"""Phases and the bar, in a log and on a real terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import threading
import time

import pytest

from rlvr.telemetry.progress import phase


def test_a_quick_phase_is_quiet(capsys):
    with phase("quick", quiet_s=5):
        pass
    assert capsys.readouterr() == ("", "")
    assert not [t for t in threading.enumerate() if t.name.startswith("phase")]


def test_a_slow_phase_says_so_in_a_log(capsys):
    with phase("slow", quiet_s=0.05):
        time.sleep(0.2)
        assert capsys.readouterr().out == "slow ...\n"
    assert re.fullmatch(r"slow \.\.\. 0\.\d s\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("error", "what"), [(ValueError, "failed"), (KeyboardInterrupt, "stopped")]
)
def test_a_phase_that_does_not_end_well_is_told_however_quick(capsys, error, what):
    with pytest.raises(error), phase("start"):
        raise error
    assert re.fullmatch(rf"start \.\.\. {what} after 0\.0 s\n", capsys.readouterr().out)


SCRIPT = """
import sys, threading, time
from rlvr.telemetry.display import Bar
from rlvr.telemetry.progress import phase

def slow(name, seconds):
    with phase(name, quiet_s=0.1):
        time.sleep(seconds)

bar = Bar("train", 4, 1)
threads = [threading.Thread(target=slow, args=(f"worker {i}", 0.6 + i / 2)) for i in (1, 2)]
for thread in threads:
    thread.start()
print("a printed line")
print("x" * 100, file=sys.stderr)
bar.move(2, 211.0, "rollout 0.5")
for thread in threads:
    thread.join()
bar.close()
print("the end")
"""


def on_a_terminal(columns: int, script: str = SCRIPT, **environment: str) -> str:
    """What a script sends to a terminal of that width."""
    ours, its = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=its,
        stdout=its,
        stderr=its,
        env=os.environ | {"TERM": "xterm", "COLUMNS": str(columns), **environment},
    )
    os.close(its)
    sent = b""
    try:
        while piece := os.read(ours, 65536):
            sent += piece
    except OSError:  # the terminal's other end is gone
        pass
    os.close(ours)
    assert child.wait(30) == 0, sent.decode()
    return sent.decode()


def test_whatever_is_printed_appears_above_the_bar():
    sent = on_a_terminal(90)
    plain = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", sent)
    lines = [line.rsplit("\r", 1)[-1] for line in plain.replace("\r\n", "\n").split("\n")]
    assert "a printed line" in lines and "x" * 100 in lines, "whole, whatever the width"
    assert re.search(r"train 1/4 .*\d s", plain)
    assert re.search(r"train 2/4 [━╸╺]+ \d s, 3:31 left  rollout 0.5", plain)
    assert re.search(r"worker 2 \.\.\. \d+ s", plain), "a phase is shown while it is under way"
    assert [line for line in lines if re.fullmatch(r"worker \d \.\.\. \d+\.\d s", line)]
    assert lines[-2:] == ["the end", ""]
    assert sent.rfind("\x1b[?25h") > sent.rfind("\x1b[?25l"), "the cursor is there"
    assert re.search(r"\x1b\[[39]\d", sent), "in colour"


def test_no_colour_and_a_narrow_terminal():
    sent = on_a_terminal(30, NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*m", sent)
    plain = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", sent)
    bars = re.findall(r"train 2/4[^\r\n]*", plain)
    assert bars and max(map(len, bars)) <= 30 and "rollout" not in "".join(bars)


def test_a_dumb_terminal_gets_lines():
    phase = 'from rlvr.telemetry.progress import phase; p = phase("slow", 0); p.__enter__(); '
    sent = on_a_terminal(80, phase + "p.__exit__(None, None, None)", TERM="dumb")
    assert "\x1b" not in sent and sent.startswith("slow ...\r\nslow ... ")
