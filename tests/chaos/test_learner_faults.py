"""A learner rank that dies costs the steps since the last checkpoint; they come out the same."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from signal import SIGKILL

import pytest
import torch
from safetensors.torch import load_file

from rlvr.algorithm.credit import CREDITS
from rlvr.config import RunConfig
from rlvr.errors import LearnerError
from rlvr.learner.group import LearnerGroup
from rlvr.loop.run import Session
from rlvr.loop.validate import validated


def configuration(model: str, folder: Path, name: str) -> RunConfig:
    rows = [{"problem": f"w{i} w{i + 1}", "answer": f"w{i % 5}"} for i in range(3, 40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    config = RunConfig()
    config.model.path, config.model.dtype = model, "float32"
    config.data.train, config.data.template = [str(folder / "rows.jsonl")], "none"
    config.data.max_prompt_tokens, config.data.verifier = 16, "exact"
    config.cluster.gpus_per_node = 0
    config.rollout.group_size, config.rollout.max_response_tokens = 4, 12
    config.learner.ranks, config.learner.zero_stage, config.learner.lr = 2, 2, 3e-3
    config.learner.entropy_bonus = 0.1
    config.train.steps, config.train.prompts_per_step = 6, 4
    config.train.checkpoint_every = 2
    config.train.output_dir = str(folder / name)
    config.telemetry.wandb = "disabled"
    return config


def steps(folder: Path) -> list[int]:
    file = folder / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    rows = map(json.loads, lines)
    return [row["step"] for row in rows if "rollout/reward_mean" in row]


@pytest.fixture(scope="module")
def train(ray_here):
    session = Session()
    with asyncio.Runner() as runner:
        yield lambda config: runner.run(session.train(validated(config)))
        runner.run(session.close())


@pytest.mark.parametrize("lora", [0, 4], ids=["all_weights", "adapters"])
def test_the_ranks_start_again_from_the_last_checkpoint(
    train, tiny_model, tmp_path, capfd, monkeypatch, lora
):
    whole = configuration(tiny_model(True), tmp_path, "whole")
    whole.learner.lora.rank = lora
    train(whole)
    disturbed = configuration(tiny_model(True), tmp_path, "disturbed")
    disturbed.learner.lora.rank = lora
    score = LearnerGroup.score

    async def killed(group):
        if steps(tmp_path / "disturbed") == [1, 2, 3]:
            monkeypatch.setattr(LearnerGroup, "score", score)
            os.kill(await group.workers[1].__ray_call__.remote(lambda _: os.getpid()), SIGKILL)
        return await score(group)

    monkeypatch.setattr(LearnerGroup, "score", killed)
    train(disturbed)
    told = capfd.readouterr().out
    assert "learner rank" in told and "starts again (1 of train.max_restarts=3)" in told
    assert steps(tmp_path / "disturbed") == [1, 2, 3, 4, 5, 6]
    a, b = (
        load_file(tmp_path / name / "model" / "model.safetensors")
        for name in ("whole", "disturbed")
    )
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_rank_that_raises_ends_the_run_with_its_own_traceback(
    train, tiny_model, tmp_path, own_registry, capfd
):
    """It would do so again."""
    own_registry(CREDITS)
    config = configuration(tiny_model(True), tmp_path, "run")
    config.learner.entropy_bonus = 0.0
    config.credit = {"name": "tests.chaos.broken_credit"}
    with pytest.raises(LearnerError, match="(?s)broken_credit.py.*of this test is broken"):
        train(config)
    assert "starts again" not in capfd.readouterr().out
