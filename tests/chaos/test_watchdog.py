"""A stage that hangs is told with the stacks of all workers, and the run goes on."""

from __future__ import annotations

import importlib
import os
import re
import signal
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # its run
endings = importlib.import_module("test_endings")
run = endings.run


def test_a_stopped_rank_is_named_and_the_run_goes_on(run, tmp_path):
    r = run("telemetry.late_stage_s=15", "train.steps=100000")
    r.wait_for_step(2)
    ranks = [p for p in r.descendants() if "LearnerWorker" in endings.command(p)]
    os.kill(ranks[1].pid, signal.SIGSTOP)
    for _ in range(900):
        if late := re.search(r"'(\w+)' is late: \d+ s so far, usually.*", r.log.read_text()):
            break
        assert r.process.poll() is None, r.log.read_text()[-3000:]
        time.sleep(0.1)
    os.kill(ranks[1].pid, signal.SIGCONT)
    [file] = (tmp_path / "run" / "stacks").glob("*.txt")
    assert f"stacks of all workers: {file}" in late[0]
    assert re.search(r"Look first at learner rank \d;", late[0])
    stopped = re.search(r"Look first at (learner rank \d)", late[0])[1]
    told = dict(re.findall(r"^== (.*)\n((?:(?!== ).*\n)*)", file.read_text(), re.MULTILINE))
    assert set(told) == {
        *("driver", "learner rank 0", "learner rank 1", "rollout worker 0", "verifier actor 0")
    }
    assert told[stopped].startswith("State: T (stopped)")
    [other] = {"learner rank 0", "learner rank 1"} - {stopped}
    assert "main_loop" in told[other]  # it is done, or waits in a collective
    assert "rlvr/rollout/worker.py" in told["rollout worker 0"]
    assert "Thread" in told["driver"]
    done = max(map(int, re.findall(r"step +(\d+)/", r.log.read_text())))
    r.wait_for_step(done + 2)
    os.kill(r.process.pid, signal.SIGTERM)
    r.end(timeout_s=60)
