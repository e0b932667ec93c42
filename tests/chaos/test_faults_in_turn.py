"""One run, colocated: a rank hangs, an engine is killed, a rank is killed. It says what happens."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.chaos.child import Run

ROOT = Path(__file__).parents[2]


def training(model: str, folder: Path) -> Run:
    """With its own Ray, and signals that reach it alone."""
    rows = [{"problem": f"w{i} w{i + 1}", "answer": "w5"} for i in range(3, 60)]
    data, log = folder / "train.jsonl", folder / "log"
    data.write_text("".join(json.dumps(r) + "\n" for r in rows))
    command = [
        *(sys.executable, "-m", "rlvr.train", f"model.path={model}", "model.dtype=float32"),
        *(f"data.train=[{data}]", "data.template=none", "data.max_prompt_tokens=16"),
        *("data.verifier=exact", "rollout.group_size=4", "rollout.max_response_tokens=16"),
        *("rollout.workers=2", "learner.ranks=2", "learner.zero_stage=2"),
        *("cluster.placement=colocated", "train.steps=100000", "train.prompts_per_step=4"),
        *("train.max_restarts=0", "telemetry.wandb=disabled", "telemetry.late_stage_s=15"),
        f"train.output_dir={folder / 'run'}",
    ]
    with log.open("w") as out:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "RAY_ADDRESS": ""},
        )
    return Run(process, log)


def processes(run: Run) -> list[psutil.Process]:
    return psutil.Process(run.process.pid).children(recursive=True)


def actors(run: Run, kind: str) -> list[psutil.Process]:
    return [p for p in processes(run) if f"ray::{kind}" in command(p)]


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
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def run(tiny_model, folder):
    started = training(tiny_model(True), folder)
    started.goes_on(2)
    yield started
    if started.process.poll() is None:
        for process in [*processes(started), started.process]:
            process.kill()


def test_a_stage_that_hangs_is_told_with_the_stacks_of_all_workers(run, folder):
    victim = actors(run, "LearnerWorker")[1]
    victim.suspend()
    late = run.tells(r"'\w+' is late: \d+ s so far, usually.*")
    victim.resume()
    [file] = (folder / "run" / "stacks").glob("*.txt")
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
    run.goes_on(2)  # the first may have been under way


def test_a_killed_engine_is_replaced(run):
    actors(run, "RolloutWorker")[0].kill()
    line = r"^rollout worker [01] failed: .*died.* It is replaced .*requests are asked again$"
    run.tells(line)
    run.goes_on(2)
    assert len(re.findall(line, run.text(), re.MULTILINE)) == 1


def test_a_killed_rank_that_may_not_start_again_ends_the_run_and_nothing_is_left(run):
    every = processes(run)
    assert len(every) > 4
    actors(run, "LearnerWorker")[0].kill()
    run.process.wait(30)
    assert re.search(r"learner rank [01].*died", run.text(), re.DOTALL)
    assert run.process.returncode != 0
    assert not alive(every)
