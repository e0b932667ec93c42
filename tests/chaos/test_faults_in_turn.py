"""One run, colocated: a rank hangs, an engine is killed, a rank is killed. It says what happens."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]


class Run:
    """A real training run as a child process, far from its end."""

    def __init__(self, model: str, folder: Path) -> None:
        rows = [{"problem": f"w{i} w{i + 1}", "answer": "w5"} for i in range(3, 60)]
        data = folder / "train.jsonl"
        data.write_text("".join(json.dumps(r) + "\n" for r in rows))
        self.log = folder / "log"
        self.folder = folder / "run"
        arguments = [
            *(f"model.path={model}", "model.dtype=float32", f"data.train=[{data}]"),
            *("data.template=none", "data.max_prompt_tokens=16", "data.verifier=exact"),
            *("rollout.group_size=4", "rollout.max_response_tokens=16", "rollout.workers=2"),
            *("learner.ranks=2", "learner.zero_stage=2", "cluster.placement=colocated"),
            *("train.steps=100000", "train.prompts_per_step=4", "train.max_restarts=0"),
            *("telemetry.wandb=disabled", "telemetry.late_stage_s=15"),
            f"train.output_dir={self.folder}",
        ]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rlvr.train", *arguments],
            cwd=ROOT,
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its own Ray, and signals that reach it alone
            env={**os.environ, "RAY_ADDRESS": ""},
        )

    def goes_on(self) -> None:
        """Two steps: the first may have been under way."""
        done = max(map(int, re.findall(r"step +(\d+)/", self.log.read_text())), default=0)
        self.tells(rf"step +{done + 2}/")

    def tells(self, line: str) -> re.Match[str]:
        for _ in range(2400):
            if found := re.search(line, self.log.read_text(), re.MULTILINE):
                return found
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            time.sleep(0.1)
        raise AssertionError(self.log.read_text()[-3000:])

    def processes(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def actors(self, kind: str) -> list[psutil.Process]:
        return [p for p in self.processes() if f"ray::{kind}" in command(p)]


def command(process: psutil.Process) -> str:
    """Its command line; of a process that ended since it was listed, nothing."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def alive(processes: list[psutil.Process], within_s: float = 5.0) -> list[psutil.Process]:
    _, left = psutil.wait_procs(processes, timeout=within_s)
    return [p for p in left if p.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture(scope="module")
def run(tiny_model, tmp_path_factory):
    started = Run(tiny_model(True), tmp_path_factory.mktemp("run"))
    started.goes_on()
    yield started
    for process in (
        [*started.processes(), started.process] if started.process.poll() is None else []
    ):
        process.kill()


def test_a_stage_that_hangs_is_told_with_the_stacks_of_all_workers(run):
    victim = run.actors("LearnerWorker")[1]
    victim.suspend()
    late = run.tells(r"'\w+' is late: \d+ s so far, usually.*")[0]
    victim.resume()
    [file] = (run.folder / "stacks").glob("*.txt")
    assert f"stacks of all workers: {file}" in late
    [stopped] = re.findall(r"Look first at (learner rank \d);", late)
    told = dict(re.findall(r"^== (.*)\n((?:(?!== ).*\n)*)", file.read_text(), re.MULTILINE))
    assert set(told) == {
        *("driver", "learner rank 0", "learner rank 1"),
        *("rollout worker 0", "rollout worker 1", "verifier actor 0"),
    }
    assert told[stopped].startswith("State: T (stopped)")
    [other] = {"learner rank 0", "learner rank 1"} - {stopped}
    assert "main_loop" in told[other]  # it is done, or waits in a collective
    assert "rlvr/rollout/worker.py" in told["rollout worker 0"]
    assert "Thread" in told["driver"]
    run.goes_on()


def test_a_killed_engine_is_replaced(run):
    run.actors("RolloutWorker")[0].kill()
    line = r"^rollout worker [01] failed: .*died.* It is replaced .*requests are asked again$"
    run.tells(line)
    run.goes_on()
    assert len(re.findall(line, run.log.read_text(), re.MULTILINE)) == 1


def test_a_killed_rank_that_may_not_start_again_ends_the_run_and_nothing_is_left(run):
    processes = run.processes()
    assert len(processes) > 4
    run.actors("LearnerWorker")[0].kill()
    run.process.wait(30)
    assert re.search(r"learner rank [01].*died", run.log.read_text(), re.DOTALL)
    assert run.process.returncode != 0
    assert not alive(processes)
