"""An engine of two processes, in a placement group, computes what one process would."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from rlvr.config import RunConfig
from rlvr.learner.group import LearnerGroup
from rlvr.loop.cluster import reserve
from rlvr.loop.resolve import resolved
from rlvr.rollout.pool import RolloutPool
from rlvr.rollout.request import Request, Sampling
from rlvr.types import Response
from rlvr.weights.publish import WeightPublisher

PROMPTS = [[5, 17, 33], [9, 4, 77, 20], [100, 3]]


def configuration(model: str) -> RunConfig:
    config = RunConfig()
    config.model.path, config.model.dtype = model, "float32"
    config.cluster.gpus_per_node = 0
    config.cluster.torch_threads = 1
    config.learner.ranks = 1
    config.rollout.tensor_parallel = 2
    config.rollout.engine = {"max_model_len": 64}
    return resolved(config)


async def greedy(pool: RolloutPool, name: str) -> list[Response]:
    sampling = Sampling(0.0, 1.0, 0, 16, ())
    requests = [Request(f"{name}{i}", p, None, sampling) for i, p in enumerate(PROMPTS)]
    got = {r.id: response async for some in pool.sample(requests) for r, response in some}
    return [got[r.id] for r in requests]


def expect(responses: list[Response], folder: str, version: int) -> None:
    """Each token is the likeliest, and has the log-probability that transformers computes."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for prompt, response in zip(PROMPTS, responses, strict=True):
        ids = torch.tensor([*prompt, *response.token_ids.tolist()])
        with torch.no_grad():
            logp = model(ids[None]).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        own = logp.gather(1, ids[len(prompt) :, None])[:, 0]
        assert float((logp.max(-1).values - own).max()) < 1e-4
        np.testing.assert_allclose(response.logp_rollout, own.numpy(), atol=1e-4)
        assert set(response.policy_version.tolist()) == {version}


@pytest.mark.timeout(400)
def test_two_processes_sample_and_are_published_to(ray_here, tiny_model, save_qwen3, tmp_path):
    first, second = tiny_model(False), str(tmp_path / "second")
    save_qwen3(
        second,
        vocab_size=128,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        initializer_range=0.1,
    )
    config = configuration(first)

    async def run() -> tuple[list[Response], list[Response]]:
        placement = await reserve(config)
        pool = RolloutPool(config, placement.engines)
        learners = LearnerGroup(configuration(second), 0, placement.learners)
        try:
            await asyncio.gather(pool.start(), learners.start())
            before = await greedy(pool, "before")
            publisher = WeightPublisher(
                config.weights, learners.workers, config.rollout.tensor_parallel
            )
            await publisher.start(pool.engines)
            await publisher.publish(1)
            return before, await greedy(pool, "after")
        finally:
            await pool.close()
            await learners.close()
            placement.release()

    before, after = asyncio.run(run())
    expect(before, first, 0)
    expect(after, second, 1)
