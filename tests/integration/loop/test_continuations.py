"""Rewards of continued responses: their mean is the value, which few tokens allow to enumerate."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlvr.algorithm.credit import Prefix
from rlvr.config import RunConfig
from rlvr.errors import RunError
from rlvr.loop.batch import RolloutBatch
from rlvr.loop.cluster import engine_options
from rlvr.loop.continuations import Continuations
from rlvr.loop.credit_driver import CreditDriver
from rlvr.loop.resolve import resolved
from rlvr.rollout.pool import RolloutPool
from rlvr.types import IN_USE, Group, Outcome, Prompt, Response, Sample, Verdict
from rlvr.verify.workers.pool import VerifierPool
from rlvr.verify.workers.work import Work

STOP, SAMPLES = 1, 250


@pytest.fixture(scope="module")
def bench(ray_here, tiny_model):
    config = RunConfig()
    config.model.path, config.model.dtype = tiny_model(False), "float32"
    config.cluster.gpus_per_node = 0
    config.learner.ranks = 1
    config.rollout.temperature, config.rollout.max_response_tokens = 0.7, 2
    config.rollout.engine = {"max_model_len": 64}
    config.credit = {"name": "vine", "samples": SAMPLES, "segment": "tokens", "every": 1}
    config.train.overlong_buffer = 1  # a whole response of two tokens loses 1
    config = resolved(config)
    loop = asyncio.new_event_loop()
    pool = RolloutPool(config, engine_options(config, None))
    verifiers = VerifierPool(Work(config.verifier, ["regex"]))

    def do(coroutine):
        return loop.run_until_complete(asyncio.wait_for(coroutine, 120))

    do(pool.start())
    do(verifiers.start())
    tokenizer = AutoTokenizer.from_pretrained(config.model.path)
    continuations = Continuations(config, pool, verifiers, tokenizer, [STOP])
    yield do, config, continuations, CreditDriver(config, pool, tokenizer, continuations)
    do(verifiers.close())
    do(pool.close())


@torch.no_grad()
def value(config: RunConfig, prefix: Prefix) -> tuple[float, float]:
    """Mean and variance of the reward, summed over every response of two tokens."""
    model = AutoModelForCausalLM.from_pretrained(config.model.path, dtype=torch.float64)
    tokenizer = AutoTokenizer.from_pretrained(config.model.path)

    def reward(ids: list[int]) -> float:
        text = tokenizer.decode(ids, skip_special_tokens=True).strip()
        return float(bool(re.fullmatch(prefix.prompt.answer, text))) - (len(ids) > 1)

    def paths(ids: list[int], p: float):
        if len(ids) == 2 or ids[-1:] == [STOP]:
            yield p, reward(ids)
            return
        logits = model(torch.tensor([[*prefix.prompt.token_ids, *ids]])).logits[0, -1]
        for token, own in enumerate(torch.softmax(logits / 0.7, -1).tolist()):
            yield from paths([*ids, token], p * own)

    p, r = np.array(list(paths(list(prefix.token_ids), 1.0))).T
    assert p.sum() == pytest.approx(1)
    return float(p @ r), float(p @ r**2 - (p @ r) ** 2)


def test_the_mean_of_continuations_is_the_value(bench, seed):
    do, config, continuations, _ = bench
    generator = np.random.default_rng(seed)
    ids = generator.integers(3, 128, 6).tolist()
    prompt = Prompt("p", ids[:3], "", r".*w\d*[02468]", "regex")
    begun = [[], ids[3:4], ids[3:5], [ids[3], STOP], [STOP], ids[4:5]]
    prefixes = [Prefix(prompt, own) for own in begun]
    rewards = do(continuations.rewards(prefixes, SAMPLES, 0))
    for prefix, found in zip(prefixes, rewards, strict=True):
        mean, variance = value(config, prefix)
        assert found.shape == (SAMPLES,)
        assert abs(found.mean() - mean) <= 5 * (variance / SAMPLES) ** 0.5 + 1e-12
    assert len({tuple(r) for r in (rewards[0], rewards[1], rewards[5])}) == 3, "draws of their own"
    again = do(continuations.rewards(prefixes[::-1], SAMPLES, 0))
    np.testing.assert_array_equal(rewards, again[::-1])
    with pytest.raises(RunError, match="asked of policy version 3.*answered for 0"):
        do(continuations.rewards(prefixes, 1, 3))


def test_the_same_response_is_verified_once(bench, monkeypatch, seed):
    """However many continuations come to it, at whatever time; each has its reward all the same."""
    do, _, continuations, _ = bench
    ids = np.random.default_rng(seed).integers(3, 128, 4).tolist()
    prompt = Prompt("p", ids[:3], "", r".*w\d*[02468]", "regex")
    other = replace(prompt, id="q", answer=r".*w\d*[13579]")
    verify, asked = VerifierPool.verify, []

    async def counted(pool, items):
        asked.extend((prompt.id, text) for prompt, text in items)
        return await verify(pool, items)

    monkeypatch.setattr(VerifierPool, "verify", counted)
    prefixes = [Prefix(prompt, ids[3:]), Prefix(other, ids[3:]), Prefix(prompt, ids[3:])]
    even, odd, again = do(continuations.rewards(prefixes, SAMPLES, 0))
    assert len(asked) < SAMPLES
    assert max(Counter(asked).values()) <= 2  # both special tokens are no text
    np.testing.assert_array_equal(even, again)
    assert set(even) >= {-1.0, 0.0} and not np.array_equal(even, odd)


def test_step_advantages_are_the_changes_of_the_value(bench, seed):
    """Of a response of two tokens: V(first) − V(nothing), and R − V(first)."""
    do, config, _, driver = bench
    ids = np.random.default_rng(seed).integers(3, 128, 5).astype(np.int32)
    prompt = Prompt("p", ids[:3].tolist(), "", r".*w\d*[02468]", "regex")
    response = Response(ids[3:], np.zeros(2, np.float32), np.zeros(2, np.int32), "length")
    group = Group(prompt, [Sample(response, "", Verdict(0.5, Outcome.CORRECT))])
    inputs = do(driver.prepare(RolloutBatch(0, [group], {}))).of(IN_USE)
    begun = [Prefix(prompt, ids[3 : 3 + t].tolist()) for t in (0, 1)]
    (before, v0), (after, v1) = (value(config, prefix) for prefix in begun)
    first, last = inputs.token["step_advantage"].tolist()
    assert abs(first - (after - before)) <= 5 * ((v0 + v1) / SAMPLES) ** 0.5 + 1e-6
    assert abs(last - (0.5 - after)) <= 5 * (v1 / SAMPLES) ** 0.5 + 1e-6
