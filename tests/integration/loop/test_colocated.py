"""Engines and learners that share their machines take turns, and come to the same numbers."""

from __future__ import annotations

import asyncio
import os
import signal

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from rlvr.config import RunConfig
from rlvr.learner.group import LearnerGroup
from rlvr.loop.run import Session
from rlvr.loop.validate import validated
from rlvr.rollout.pool import RolloutPool
from rlvr.weights.publish import WeightPublisher


def configuration(guesser, folder, name: str, **cluster) -> RunConfig:
    config = RunConfig()
    config.model.path, config.model.dtype = str(guesser), "float32"
    config.data.train = config.data.eval = [str(guesser / "rows.jsonl")]
    config.data.template, config.data.verifier, config.data.max_prompt_tokens = "none", "exact", 8
    config.cluster.gpus_per_node = 0
    config.rollout.group_size, config.rollout.max_response_tokens = 4, 12
    config.learner.ranks, config.learner.zero_stage, config.learner.lr = 2, 3, 3e-3
    config.train.steps, config.train.prompts_per_step = 2, 8
    config.train.checkpoint_every = 1
    config.evaluation.every, config.evaluation.limit = 1, 4
    config.train.output_dir = str(folder / name)
    config.telemetry.wandb = "disabled"
    for key, value in cluster.items():
        setattr(config.cluster, key, value)
    return config


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """What the driver asks of its actors, in order; everything happens all the same."""
    seen: list[str] = []

    def listen(kind: type, name: str, who: str) -> None:
        method = getattr(kind, name)

        async def heard(self, *arguments, **options):
            plain = [str(a) for a in arguments if isinstance(a, str | int) and "/" not in str(a)]
            seen.append(" ".join([who, name, *plain]))
            return await method(self, *arguments, **options)

        monkeypatch.setattr(kind, name, heard)

    for name in ("start", "sleep", "wake_up"):
        listen(RolloutPool, name, "engines")
    for name in ("start", "rebuild", "sleep", "wake_up", "score", "update"):
        listen(LearnerGroup, name, "learners")
    for name in ("save_checkpoint", "save_model"):
        listen(LearnerGroup, name, "learners")
    listen(WeightPublisher, "publish", "weights")
    sample = RolloutPool.sample

    def sampled(self, requests):
        seen.append("engines sample")
        return sample(self, requests)

    monkeypatch.setattr(RolloutPool, "sample", sampled)
    return seen


@pytest.fixture
def kill_a_rank_in_update(calls, monkeypatch):
    """Arrange it, once."""

    def arrange() -> None:
        update = LearnerGroup.update

        async def disturbed(group):
            monkeypatch.setattr(LearnerGroup, "update", update)
            pid = await group.workers[1].__ray_call__.remote(lambda _: os.getpid())
            os.kill(pid, signal.SIGKILL)
            return await update(group)

        monkeypatch.setattr(LearnerGroup, "update", disturbed)

    return arrange


def to_the_engines(version: int) -> list[str]:
    return [
        "learners sleep",
        "engines wake_up weights",
        f"weights publish {version}",
        "engines wake_up kv_cache",
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def apart(ray_here, guesser, folder) -> None:
    """The same run, disaggregated."""
    with Sessions() as train:
        train(configuration(guesser, folder, "apart"))


class Sessions:
    """A session for several runs."""

    def __enter__(self):
        self.session, self.runner = Session(), asyncio.Runner()
        return lambda config: self.runner.run(self.session.train(validated(config)))

    def __exit__(self, *_):
        self.runner.run(self.session.close())
        self.runner.close()


@pytest.mark.timeout(600)
def test_turns_change_the_order_of_calls_and_nothing_else(
    apart, guesser, folder, calls, kill_a_rank_in_update, capfd
):
    def same(name: str) -> None:
        a, b = (load_file(folder / run / "model" / "model.safetensors") for run in ("apart", name))
        assert all(torch.equal(a[k], b[k]) for k in a)
        for number in (1, 2):
            file = f"responses/step_{number:06d}.parquet"
            x, y = (pq.read_table(folder / run / file) for run in ("apart", name))
            assert x["response"].to_pylist() == y["response"].to_pylist()

    def together(name: str) -> RunConfig:
        config = configuration(guesser, folder, name, placement="colocated")
        config.learner.offload = "during_rollout"
        return config

    step = ["engines sleep", "learners wake_up", "learners score", "learners update"]
    rest = ["learners save_checkpoint", "engines sample"]  # the second is the evaluation's
    steps = [
        *to_the_engines(0),
        *("engines sample", *step, *to_the_engines(1), *rest),
        *("engines sample", *step, *to_the_engines(2), *rest),
        "learners save_model",
    ]
    with Sessions() as train:
        train(together("first"))
        assert calls == ["engines start", "engines sleep", "learners start", *steps]
        same("first")

        calls.clear()
        train(together("second"))
        assert calls == ["engines sleep", "learners wake_up", "learners rebuild", *steps]
        same("second")

        # A rank that dies takes engines and ranks back to the last checkpoint, which was written
        # of what lay on the host.
        calls.clear()
        kill_a_rank_in_update()
        again = together("third")
        again.train.resume = str(folder / "second" / "checkpoints" / "step_000001")
        train(again)
        assert calls == [
            *("engines sleep", "learners wake_up", "learners rebuild", *to_the_engines(1)),
            "engines sample",  # the evaluation of step 1, of which this run has no record
            *("engines sample", *step),
            *("engines start", "engines sleep", "learners start", *to_the_engines(1)),
            *("engines sample", *step, *to_the_engines(2), *rest),
            "learners save_model",
        ]
        assert "starts again (1 of train.max_restarts=3)" in capfd.readouterr().out
        a, b = (
            load_file(folder / run / "model" / "model.safetensors") for run in ("apart", "third")
        )
        assert all(torch.equal(a[k], b[k]) for k in a)
