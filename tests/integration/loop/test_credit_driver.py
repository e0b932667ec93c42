"""OAR-P on the rollout engines is OAR-P on the learner."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from rlvr.algorithm.credit import CREDITS, SoloRanks
from rlvr.algorithm.credit.oar import rank_correlation
from rlvr.algorithm.credit.oar_segments import planned_segments
from rlvr.config import RunConfig
from rlvr.errors import RunError
from rlvr.learner.features import LentPolicy, ScoringFeatures
from rlvr.learner.group import LearnerGroup
from rlvr.learner.policy import load_policy
from rlvr.loop.batch import RolloutBatch
from rlvr.loop.cluster import engine_options, learner_options
from rlvr.loop.credit_driver import CreditDriver
from rlvr.loop.resolve import resolved
from rlvr.rollout.pool import RolloutPool
from rlvr.types import IN_USE, Group, Outcome, Prompt, Response, Sample, Verdict
from rlvr.weights.publish import WeightPublisher

PAD, TEMPERATURE, LONGEST = 0, 0.7, 64


def configuration(model: str, **options) -> RunConfig:
    config = RunConfig()
    config.model.path, config.model.dtype = model, "float32"
    config.cluster.gpus_per_node = 0
    config.learner.ranks, config.learner.zero_stage, config.learner.lr = 1, 3, 1e-2
    config.rollout.temperature, config.rollout.max_running = TEMPERATURE, 32
    config.rollout.top_p, config.rollout.top_k = 0.9, 20  # which no outcome must show
    config.rollout.engine = {"max_model_len": LONGEST}
    config.objective = {"name": "dapo"}
    config.credit = {"name": "oar_p", "engine": "rollout", "check_responses": 99} | options
    return resolved(config)


def draw(seed: int) -> tuple[list[Group], dict[int, tuple[int, int]]]:
    """Three groups; of the first, one response has no answer and one no room for another token.

    Also, where each sample's answer lies.
    """
    generator = np.random.default_rng(seed)
    groups, spans = [], {}
    for g in range(3):
        prompt = generator.integers(3, 128, generator.integers(4, 20)).tolist()
        responses = []
        for i in range(4):
            n = LONGEST - len(prompt) if (g, i) == (0, 0) else int(generator.integers(5, 40))
            ids = generator.integers(3, 128, n).astype(np.int32)
            zeros = np.zeros(n, np.int32)
            responses.append(Response(ids, zeros.astype(np.float32), zeros, "stop"))
        verdicts = [
            Verdict(float(i % 2), Outcome.CORRECT if i % 2 else Outcome.INCORRECT) for i in range(4)
        ]
        samples = [Sample(r, "", v) for r, v in zip(responses, verdicts, strict=True)]
        spans |= {id(x): (n - 2, n) for x in samples for n in [len(x.response.token_ids)]}
        if g == 0:
            spans[id(samples[1])] = -1, -1
        gold = " ".join(f"w{i}" for i in generator.integers(3, 128, 2))
        groups.append(Group(Prompt(str(g), prompt, "", gold, "exact"), samples))
    return groups, spans


class TellingDriver(CreditDriver):
    """Knows where the answers lie, for random tokens say nothing."""

    spans: dict[int, tuple[int, int]]

    def answer_span(self, sample):
        return self.spans[id(sample)]


@pytest.fixture(scope="module")
def bench(ray_here, tiny_model):
    loop = asyncio.new_event_loop()
    config = configuration(tiny_model(True))
    pool = RolloutPool(config, engine_options(config, None))

    def do(coroutine):
        return loop.run_until_complete(asyncio.wait_for(coroutine, 120))

    def prepared(drawn, version=0, **options):
        groups, spans = drawn
        changed = configuration(tiny_model(True), **options)
        driver = TellingDriver(changed, pool, AutoTokenizer.from_pretrained(tiny_model(True)), None)
        driver.spans = spans
        return do(driver.prepare(RolloutBatch(version, groups, {})))

    do(pool.start())
    yield SimpleNamespace(do=do, pool=pool, config=config, prepared=prepared)
    do(pool.close())


def on_the_learner(config, groups, inputs, target):
    """(segments, s_t at every position) of every response that is asked about."""
    policy = load_policy(config.model, config.learner, TEMPERATURE, torch.device("cpu"))
    method = CREDITS.build(config.credit, "credit")
    planned = planned_segments(groups, inputs.of(IN_USE), target)
    nothing = torch.zeros(0, dtype=torch.bool)
    lent = LentPolicy(policy, PAD)
    features = ScoringFeatures(
        nothing, lent, TEMPERATURE, store="device", recompute=lambda: iter(())
    )
    everywhere = [torch.arange(p.reasoning) for p in planned]
    found = method.perturbation_scores(planned, everywhere, features, SoloRanks())
    return list(zip(planned, found, strict=True))


def told(inputs):
    [scores] = inputs.of(IN_USE).token.values()
    return scores


@pytest.mark.parametrize("target", ["own", "reference"])
def test_scores_equal_the_learners(bench, target, seed):
    drawn = draw(seed)
    inputs = bench.prepared(drawn, target=target)
    scores = told(inputs)
    some = told(bench.prepared(drawn, target=target, max_positions=4))
    coarse = told(bench.prepared(drawn, target=target, top_tokens=8))
    exact = on_the_learner(bench.config, drawn[0], inputs, target)
    assert len(exact) == 11
    known = torch.zeros_like(scores, dtype=torch.bool)
    correlation = []
    for part, expected in exact:
        span = slice(part.first, part.first + part.reasoning)
        if len(part.token_ids) >= LONGEST:  # a gold answer may be longer than the sampled one
            continue
        known[span] = True
        torch.testing.assert_close(scores[span], expected, rtol=1e-3, atol=2e-5)
        asked = some[span].isfinite()
        assert asked.sum() == min(4, part.reasoning)
        torch.testing.assert_close(some[span][asked], expected[asked], rtol=1e-3, atol=2e-5)
        assert (coarse[span] <= expected + 1e-4).all()
        correlation.append(rank_correlation(scores[span], expected))
    assert torch.equal(scores.isfinite(), known), "scored is what was asked about, no more"
    assert np.mean(correlation) > 0.999


def test_weights_on_the_ranks_and_the_version_that_answers(bench, seed):
    drawn = draw(seed)
    learners = LearnerGroup(bench.config, PAD, learner_options(bench.config, None))
    bench.do(learners.start())
    publisher = WeightPublisher(bench.config.weights, learners.workers)
    bench.do(publisher.start(bench.pool.engines))

    async def step(inputs):
        await learners.load(drawn[0], np.tile([-1.0, 1.0], 6), inputs)
        await learners.score()
        credit, _ = await learners.assign_credit()
        await learners.update()
        return credit

    for version in (0, 1):
        inputs = bench.prepared(drawn, version)
        metrics = bench.do(step(inputs))
        assert metrics["credit/rank_correlation"] > 0.999
        assert metrics["credit/too_long_to_score"] == pytest.approx(1 / 11)
        bench.do(publisher.publish(version + 1))
    stale = bench.do(step(inputs))
    assert stale["credit/rank_correlation"] < 0.999, "scores of another policy must show"
    with pytest.raises(RunError, match="asked about policy version 1.*answered for version 2"):
        bench.prepared(drawn, 1)
    bench.do(learners.close())
