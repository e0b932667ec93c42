"""OAR-P on the rollout engines is OAR-P on the learner."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rlvr.algorithm.credit import CREDITS, SoloRanks
from rlvr.algorithm.credit.oar import planned_probes, rank_correlation
from rlvr.algorithm.credit.oar_p import perturbation_scores
from rlvr.config import RunConfig, WeightsConfig
from rlvr.errors import RunError
from rlvr.learner.batching import rank_batches
from rlvr.learner.features import LentPolicy
from rlvr.learner.group import LearnerGroup
from rlvr.learner.policy import load_policy
from rlvr.loop.cluster import engine_options, learner_options
from rlvr.loop.prober import Prober
from rlvr.loop.shape import resolve
from rlvr.rollout.pool import RolloutPool
from rlvr.types import Answers, Group, Outcome, Prompt, Response, Verdict
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
    return resolve(config)


def draw(seed: int) -> tuple[list[Group], Answers]:
    """Three groups; of the first, one response has no answer and one no room for another token."""
    generator = np.random.default_rng(seed)
    groups, spans = [], []
    for g in range(3):
        prompt = generator.integers(3, 128, generator.integers(4, 20)).tolist()
        responses = []
        for i in range(4):
            n = LONGEST - len(prompt) if (g, i) == (0, 0) else int(generator.integers(5, 40))
            ids = generator.integers(3, 128, n).astype(np.int32)
            zeros = np.zeros(n, np.int32)
            responses.append(Response(ids, zeros.astype(np.float32), zeros, "stop"))
            spans.append([n - 2, n] if i != 1 or g else [-1, -1])
        verdicts = [
            Verdict(float(i % 2), Outcome.CORRECT if i % 2 else Outcome.INCORRECT) for i in range(4)
        ]
        groups.append(Group(Prompt(str(g), prompt, "", "", "exact"), responses, verdicts))
    gold = generator.integers(3, 128, (12, 2))
    return groups, Answers(np.array(spans), gold)


@pytest.fixture(scope="module")
def bench(ray_here, tiny_model):
    loop = asyncio.new_event_loop()
    config = configuration(tiny_model(True))
    pool = RolloutPool(
        config.model, config.rollout, backend="shm", gpu=False, options=engine_options(config, None)
    )

    def do(coroutine):
        return loop.run_until_complete(asyncio.wait_for(coroutine, 120))

    def scores(groups, answers, version=0, **options):
        changed = configuration(tiny_model(True), **options)
        method = CREDITS.build(changed.credit, "credit")
        prober = Prober(method, changed, pool, PAD)
        return do(prober.token_scores(version, groups, answers))

    do(pool.start())
    yield SimpleNamespace(do=do, pool=pool, config=config, scores=scores)
    do(pool.close())


def on_the_learner(config, groups, answers, target):
    """(probe, s_t at every position) of every response that is asked about."""
    policy = load_policy(config.model, config.learner, TEMPERATURE, torch.device("cpu"))
    method = CREDITS.build(config.credit, "credit")
    probes = planned_probes(groups, answers, target)
    [batch] = rank_batches(groups, np.zeros(12), ranks=1, groups_per_mini_batch=3)
    features = SimpleNamespace(policy=LentPolicy(policy, PAD), temperature=TEMPERATURE)
    everywhere = [torch.arange(p.reasoning) for p in probes]
    found = perturbation_scores(method.config, probes, everywhere, batch, features, SoloRanks())
    return list(zip(probes, found, strict=True))


@pytest.mark.parametrize("target", ["own", "reference"])
def test_scores_equal_the_learners(bench, target, seed):
    groups, answers = draw(seed)
    scores = bench.scores(groups, answers, target=target)
    some = bench.scores(groups, answers, target=target, max_positions=4)
    coarse = bench.scores(groups, answers, target=target, top_tokens=8)
    exact = on_the_learner(bench.config, groups, answers, target)
    assert len(exact) == 11
    known = torch.zeros_like(scores, dtype=torch.bool)
    correlation = []
    for probe, expected in exact:
        span = slice(probe.first, probe.first + probe.reasoning)
        if len(probe.token_ids) == LONGEST:
            continue
        known[span] = True
        torch.testing.assert_close(scores[span], expected, rtol=1e-3, atol=2e-5)
        asked = some[span].isfinite()
        assert asked.sum() == min(4, probe.reasoning)
        torch.testing.assert_close(some[span][asked], expected[asked], rtol=1e-3, atol=2e-5)
        assert (coarse[span] <= expected + 1e-4).all()
        correlation.append(rank_correlation(scores[span], expected))
    assert torch.equal(scores.isfinite(), known), "scored is what was asked about, no more"
    assert np.mean(correlation) > 0.999


def test_weights_on_the_ranks_and_the_version_that_answers(bench, seed):
    groups, answers = draw(seed)
    learners = LearnerGroup(bench.config, PAD, learner_options(bench.config, None))
    bench.do(learners.start())
    publisher = WeightPublisher(
        WeightsConfig("shm", 60.0), "shm", learners.ranks, bench.pool.actors
    )
    bench.do(publisher.start())

    async def step(scores):
        await learners.load(groups, np.tile([-1.0, 1.0], 6), answers, scores)
        await learners.score()
        credit = await learners.assign_credit()
        await learners.update()
        return credit

    for version in (0, 1):
        scores = bench.scores(groups, answers, version)
        metrics = bench.do(step(scores))
        assert metrics["credit/rank_correlation"] > 0.999
        assert metrics["credit/too_long_to_score"] == pytest.approx(1 / 11)
        bench.do(publisher.publish(version + 1))
    stale = bench.do(step(scores))
    assert stale["credit/rank_correlation"] < 0.999, "scores of another policy must show"
    with pytest.raises(RunError, match="asked about policy version 1.*answered for version 2"):
        bench.scores(groups, answers, 1)
    bench.do(learners.close())
