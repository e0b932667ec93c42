"""One run over two machines: a link is cut, a machine is gone, another comes in its place."""

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
from tests.chaos.child import Run
from tests.chaos.machines import Machine, Machines, NoMachines

ENVIRONMENT = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 2}
EVERYWHERE = {"LearnerWorker": 1, "RolloutWorker": 1, "Fleet": 1}


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
    as_guided = ["sh", "-c", '. launch/environment.sh && exec "$@"', "sh", *command]
    done = machine.run(as_guided, env=ENVIRONMENT, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def actors(machine: Machine) -> Counter[str]:
    """How many processes of each kind of actor it has."""
    return Counter(re.findall(r"ray::(\w+Worker|Fleet)", machine.run(["ps", "ax"]).stdout))


def training(head: Machine, log: Path, *overrides: str) -> Run:
    command = [
        *(sys.executable, "-m", "rlvr.train", "model.path=/mnt/model", "model.dtype=float32"),
        *("data.train=[/mnt/rows.jsonl]", "data.template=none", "data.verifier=exact"),
        *("data.max_prompt_tokens=16", "rollout.max_response_tokens=16"),
        *("telemetry.wandb=disabled", "telemetry.progress=false"),
        *("cluster.nodes=2", "cluster.gpus_per_node=0"),
        *(f"cluster.address={head.address}:6379", "train.output_dir=/mnt/run"),
        *("rollout.group_size=4", "train.prompts_per_step=4", "train.steps=100000"),
        *("learner.zero_stage=3", "train.checkpoint_every=2", *overrides),
    ]
    with log.open("w") as out:
        return Run(head.popen(command, stdout=out, stderr=subprocess.STDOUT, env=ENVIRONMENT), log)


class Watch:
    """Says what took how long, for the table in ``launch/README.md``."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def lap(self, words: str) -> None:
        now = time.monotonic()
        print(f"{words}: {now - self._began:.1f} s", flush=True)
        self._began = now


@pytest.mark.timeout(1800)
def test_a_run_over_two_machines(machines, tmp_path):
    head, other = machines.all
    run = training(head, tmp_path / "log", "cluster.rejoin_s=1")
    run.goes_on(3)
    assert actors(head) == actors(other) == EVERYWHERE

    other.cut()
    time.sleep(10)
    other.mend()
    watch = Watch()
    run.goes_on(1)
    watch.lap("from the mended link to the next step")
    run.goes_on(1)
    assert "replaced" not in run.text() and "again" not in run.text()

    watch = Watch()
    other.cut()  # for ever
    run.tells(r"starts again \(1 of train.max_restarts=3\)")
    watch.lap("from the loss of a machine to the restart of the ranks")
    run.goes_on(1)
    watch.lap("from there to the next step, with one of two ranks")
    run.goes_on(2)
    run.tells(r"host2 \(10.77.0.2\) is gone: the learner has 1 of 2 ranks", within_s=0)
    run.tells(r"no machine has room for rollout worker \d \(1 of 2 serve\)", within_s=0)

    other = machines.replace(1)
    watch = Watch()
    join(other, f"--address={head.address}:6379")
    watch.lap("ray start on another")
    run.tells("There is room for more learner ranks")
    run.tells(r"rollout worker \d serves \(2 of 2 serve\)")
    run.until(lambda: actors(head) == actors(other) == EVERYWHERE)
    watch.lap("from there to both engines and both ranks")
    run.goes_on(3)

    head.kill()
    rows = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert {row["rollout/workers"] for row in rows if "rollout/workers" in row} == {1, 2}
    ledger = map(json.loads, (tmp_path / "run" / "ledger.jsonl").read_text().splitlines())
    assert "each trained on once" in verdict(list(ledger), prompts_per_step=4)
