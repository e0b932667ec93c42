"""Engines and learners that share their machines take turns, and come to the same numbers."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from rlvr.config import RunConfig
from rlvr.learner.group import LearnerGroup
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
            plain = [str(a) for a in arguments if isinstance(a, str | int)]
            seen.append(" ".join([who, name, *plain]))
            return await method(self, *arguments, **options)

        monkeypatch.setattr(kind, name, heard)

    for name in ("start", "sleep", "wake_up"):
        listen(RolloutPool, name, "engines")
    for name in ("start", "sleep", "wake_up", "score", "update", "save_checkpoint", "save_model"):
        listen(LearnerGroup, name, "learners")
    listen(WeightPublisher, "publish", "weights")
    sample = RolloutPool.sample

    def sampled(self, requests):
        if seen[-1] != "engines sample":
            seen.append("engines sample")
        return sample(self, requests)

    monkeypatch.setattr(RolloutPool, "sample", sampled)
    return seen


def to_the_engines(version: int) -> list[str]:
    return [
        "learners sleep",
        "engines wake_up weights",
        f"weights publish {version}",
        "engines wake_up kv_cache",
    ]


def without_folders(calls: list[str]) -> list[str]:
    return [" ".join(word for word in call.split() if "/" not in word) for call in calls]


@pytest.mark.timeout(600)
def test_turns_change_the_order_of_calls_and_nothing_else(train, guesser, tmp_path, calls):
    train(configuration(guesser, tmp_path, "apart"))
    calls.clear()
    together = configuration(guesser, tmp_path, "together", placement="colocated")
    together.learner.offload = "during_rollout"
    train(together)

    step = ["engines sleep", "learners wake_up", "learners score", "learners update"]
    rest = ["learners save_checkpoint", "engines sample"]  # the second is the evaluation's
    assert without_folders(calls) == [
        *("engines start", "engines sleep", "learners start"),
        *to_the_engines(0),
        *("engines sample", *step, *to_the_engines(1), *rest),
        *(*step, *to_the_engines(2), *rest),
        "learners save_model",
    ]

    def same(name: str) -> None:
        a, b = (
            load_file(tmp_path / folder / "model" / "model.safetensors")
            for folder in ("apart", name)
        )
        assert all(torch.equal(a[k], b[k]) for k in a)
        for number in (1, 2):
            file = f"responses/step_{number:06d}.parquet"
            x, y = (pq.read_table(tmp_path / folder / file) for folder in ("apart", name))
            assert x["response"].to_pylist() == y["response"].to_pylist()

    same("together")

    # A checkpoint that was written of what lay on the host is whole.
    checkpoints = tmp_path / "together" / "checkpoints"
    (checkpoints / "latest").write_text("step_000001")
    together.train.resume = "auto"
    train(together)
    same("together")
    lines = (tmp_path / "together" / "metrics.jsonl").read_text().splitlines()
    steps = [row for row in map(json.loads, lines) if "rollout/reward_mean" in row]
    assert [row["step"] for row in steps] == [1, 2]
