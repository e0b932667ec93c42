"""The runs of a sweep share their engines, and nothing else."""

from __future__ import annotations

import asyncio

import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

from rlvr.config import RunConfig
from rlvr.loop.run import Session
from rlvr.loop.validate import validated


def configuration(guesser, folder, **credit) -> RunConfig:
    config = RunConfig()
    config.model.path, config.model.dtype = str(guesser), "float32"
    config.data.train, config.data.template = [str(guesser / "rows.jsonl")], "none"
    config.data.max_prompt_tokens = 8
    config.cluster.gpus_per_node = 0
    config.rollout.group_size, config.rollout.max_response_tokens = 4, 12
    config.learner.ranks, config.learner.zero_stage, config.learner.lr = 2, 3, 3e-3
    config.train.steps, config.train.prompts_per_step = 3, 8
    config.train.output_dir = str(folder)
    config.telemetry.wandb = "disabled"
    config.credit = {"name": "uniform", **credit}
    return config


def test_a_run_leaves_no_trace_in_the_next(ray_here, guesser, tmp_path):
    """The third run of a session comes to the first one's numbers, bit for bit."""
    first, third = (configuration(guesser, tmp_path / name) for name in ("first", "third"))
    second = configuration(guesser, tmp_path / "second", name="delta")
    second.rollout.temperature = 0.7

    async def sweep() -> list[list[object]]:
        session = Session()
        actors = []
        try:
            for config in (first, second, third):
                await session.train(validated(config))
                actors.append([*session._actors.rollout.actors, *session._actors.learners.workers])
        finally:
            await session.close()
        return actors

    actors = asyncio.run(sweep())
    assert actors[0] == actors[1] == actors[2], "the engines were not kept"
    a, b, c = (
        load_file(tmp_path / name / "model" / "model.safetensors")
        for name in ("first", "second", "third")
    )
    assert all(torch.equal(a[k], c[k]) for k in a)
    assert not all(torch.equal(a[k], b[k]) for k in a)
    for step in (1, 2, 3):
        x, y = (
            pq.read_table(tmp_path / name / "responses" / f"step_{step:06d}.parquet")
            for name in ("first", "third")
        )
        assert x["response"].to_pylist() == y["response"].to_pylist()
