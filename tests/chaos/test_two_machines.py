"""One run over two machines: it trains across them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from rlvr.telemetry.ledger import verdict
from tests.chaos.machines import Machine, Machines, NoMachines

ENVIRONMENT = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 2}


@pytest.fixture
def machines(tiny_model, tmp_path):
    """Two, each a node of one Ray cluster, with a model and its data in /mnt."""
    shutil.copytree(tiny_model(True), tmp_path / "model")
    rows = [{"problem": f"w{i} w{i + 1}", "answer": "w5"} for i in range(3, 60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    try:
        made = Machines(2, tmp_path)
    except NoMachines as error:
        pytest.skip(f"no namespaces for an ordinary user here: {error}")
    try:
        head, other = made.all
        join(head, "--head", "--port=6379", "--include-dashboard=false")
        join(other, f"--address={head.address}:6379")
        yield made
    finally:
        made.close()


def join(machine: Machine, *words: str) -> None:
    command = ["ray", "start", f"--node-ip-address={machine.address}", "--num-cpus=2", *words]
    done = machine.run(command, env=ENVIRONMENT, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def actors(machine: Machine) -> Counter[str]:
    """How many processes of each kind of actor it has."""
    return Counter(re.findall(r"ray::(\w+Worker|Fleet)", machine.run(["ps", "ax"]).stdout))


class Log:
    """What a run prints."""

    def __init__(self, file: Path, process: subprocess.Popen[str]) -> None:
        self.file, self.process = file, process

    def steps(self) -> int:
        return max(map(int, re.findall(r"step +(\d+)/", self.file.read_text())), default=0)

    def reaches(self, step: int, within_s: float) -> None:
        limit = time.monotonic() + within_s
        while self.steps() < step:
            assert self.process.poll() is None, self.file.read_text()[-3000:]
            assert time.monotonic() < limit, self.file.read_text()[-3000:]
            time.sleep(0.1)


@pytest.mark.timeout(600)
def test_a_run_over_two_machines(machines, tmp_path):
    head, other = machines.all
    command = [
        *(sys.executable, "-m", "rlvr.train", "model.path=/mnt/model", "model.dtype=float32"),
        *("data.train=[/mnt/rows.jsonl]", "data.template=none", "data.verifier=exact"),
        *("data.max_prompt_tokens=16", "rollout.max_response_tokens=16"),
        *("telemetry.wandb=disabled", "telemetry.progress=false"),
        *("cluster.nodes=2", "cluster.gpus_per_node=0", f"cluster.address={head.address}:6379"),
        *("rollout.group_size=4", "train.prompts_per_step=4", "train.steps=100000"),
        *("learner.zero_stage=3", "train.checkpoint_every=2", "train.output_dir=/mnt/run"),
    ]
    log = Log(tmp_path / "log", None)
    with log.file.open("w") as out:
        log.process = head.popen(command, stdout=out, stderr=subprocess.STDOUT, env=ENVIRONMENT)
    log.reaches(3, within_s=240)
    for machine in (head, other):
        kinds = actors(machine)
        assert kinds["LearnerWorker"] == kinds["RolloutWorker"] == 1
    head.kill()
    ledger = map(json.loads, (tmp_path / "run" / "ledger.jsonl").read_text().splitlines())
    assert "each trained on once" in verdict(list(ledger), prompts_per_step=4)
