"""However a run ends, it ends soon, says why, and leaves no process behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

ROOT = Path(__file__).parents[2]


class Run:
    """A real training run as a child process, far from its end."""

    def __init__(self, model: str, folder: Path, *overrides: str) -> None:
        rows = [
            {"id": str(i), "problem": f"w{i} w{i + 1}", "answer": "w5", "source": "words"}
            for i in range(3, 60)
        ]
        data = folder / "train.jsonl"
        data.write_text("".join(json.dumps(r) + "\n" for r in rows))
        self.log = folder / "log"
        arguments = [
            f"model.path={model}",
            "model.dtype=float32",
            f"data.train=[{data}]",
            "data.template=none",
            "data.max_prompt_tokens=16",
            "data.verifier=exact",
            "train.steps=100000",
            "train.prompts_per_step=4",
            "rollout.group_size=4",
            "rollout.max_response_tokens=16",
            "learner.ranks=2",
            "learner.zero_stage=2",
            "telemetry.wandb=disabled",
            f"train.output_dir={folder / 'run'}",
            *overrides,
        ]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rlvr.train", *arguments],
            cwd=ROOT,
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its own Ray, and signals that reach it alone
            env={**os.environ, "RAY_ADDRESS": ""},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def wait_for_step(self, step: int) -> None:
        self.wait_for(rf"step +{step}/")

    def wait_for(self, line: str) -> None:
        for _ in range(2400):
            if re.search(line, self.log.read_text(), re.MULTILINE):
                return
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            time.sleep(0.1)
        raise AssertionError(self.log.read_text()[-3000:])

    def descendants(self) -> list[psutil.Process]:
        """Every process of the run, by its session as Ray's workers outlive their parents."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [p for p in children if p.is_running()]

    def end(self, timeout_s: float) -> str:
        self.process.wait(timeout_s)
        return self.log.read_text()


def gone(processes: list[psutil.Process], within_s: float = 5.0) -> list[psutil.Process]:
    _, alive = psutil.wait_procs(processes, timeout=within_s)
    return [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def run(tiny_model, tmp_path):
    started = []

    def start(*overrides: str) -> Run:
        started.append(Run(tiny_model(True), tmp_path, *overrides))
        return started[-1]

    yield start
    for r in started:
        for p in [*r.descendants(), r.process] if r.process.poll() is None else []:
            p.kill()


def command(process: psutil.Process) -> str:
    """Its command line; of a process that ended since it was listed, nothing."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def kill_one(processes: list[psutil.Process], actor: str) -> None:
    next(p for p in processes if actor in command(p)).kill()


@pytest.fixture(params=["disaggregated", "colocated"])
def replaced(run, request):
    """A run whose killed rollout worker has been replaced, what it said of that, its processes."""
    own = [f"cluster.placement={request.param}", "rollout.workers=2", "train.max_restarts=0"]
    r = run(*own)
    r.wait_for_step(2)
    kill_one(r.descendants(), "RolloutWorker")
    line = r"^rollout worker [01] failed: .*died.* It is replaced .*requests are asked again$"
    r.wait_for(line)
    done = max(int(step) for step in re.findall(r"step +(\d+)/", r.log.read_text()))
    r.wait_for_step(done + 2)  # the one after that may have been under way
    processes = r.descendants()
    assert len(processes) > 4
    return SimpleNamespace(run=r, line=line, processes=processes, placement=request.param)


def test_a_run_outlives_a_rollout_worker_and_leaves_nothing_behind(replaced):
    """It ends by SIGTERM, which goes the way of Ctrl-C: its handler sends the process SIGINT; or
    by the death of a learner rank that may not start again.
    """
    r = replaced.run
    if replaced.placement == "disaggregated":
        os.kill(r.process.pid, signal.SIGTERM)
        output = r.end(timeout_s=30)  # 3.5 s alone; other tests run beside it
        assert "Interrupted" in output and "Traceback" not in output
    else:
        kill_one(replaced.processes, "LearnerWorker")
        output = r.end(timeout_s=30)
        assert re.search(r"learner rank [01].*died", output, re.DOTALL)
    assert r.process.returncode != 0
    assert len(re.findall(replaced.line, output, re.MULTILINE)) == 1
    assert not gone(replaced.processes)
