"""After a publish vLLM computes what the learner computes; a failed one changes nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import ray

from rlvr.config import RunConfig
from rlvr.errors import PublishError, RolloutError
from rlvr.learner.group import LearnerGroup
from rlvr.loop.cluster import engine_options, learner_options
from rlvr.loop.resolve import resolved
from rlvr.rollout.pool import RolloutPool
from rlvr.rollout.request import Request, Sampling, sample_seed
from rlvr.types import Group, Outcome, Prompt, Response, Sample, Verdict, samples_of
from rlvr.weights.publish import WeightPublisher

TEMPERATURE = 0.7


def configuration(model: str, stage: int = 2) -> RunConfig:
    config = RunConfig()
    config.model.path = model
    config.model.dtype = "float32"
    config.cluster.gpus_per_node = 0
    config.learner.ranks = 2
    config.learner.zero_stage = stage
    config.learner.lr = 1e-2
    config.rollout.temperature = TEMPERATURE
    config.rollout.max_running = 16
    config.rollout.engine = {"max_model_len": 128}
    config.objective = {"name": "dapo"}
    return resolved(config)


def responses_of(groups: list[Group]) -> list[Response]:
    return [sample.response for sample in samples_of(groups)]


class Bench:
    """One engine, and what is asked of it."""

    def __init__(self, model: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.model = model
        self.config = configuration(model)
        self.pool = RolloutPool(self.config, engine_options(self.config, None))
        self.do(self.pool.start())
        self.calls = 0

    def do(self, coroutine):
        return self.loop.run_until_complete(asyncio.wait_for(coroutine, 120))

    def sample(self, temperature: float = TEMPERATURE) -> list[Group]:
        """Four prompts, four responses each, with rewards of both kinds."""
        self.calls += 1
        sampling = Sampling(temperature, 1.0, 0, 24, (1,))
        prompts = [Prompt(str(p), [5 + p, 9, 11 + p], "", "", "exact") for p in range(4)]
        requests = [
            Request(
                f"{self.calls}:{p}:{i}", prompt.token_ids, sample_seed(0, str(p), 0, i), sampling
            )
            for p, prompt in enumerate(prompts)
            for i in range(4)
        ]

        async def gather():
            return [pair async for parcel in self.pool.sample(requests) for pair in parcel]

        got = {request.id: response for request, response in self.do(gather())}
        assert len(got) == 16
        verdicts = [
            Verdict(float(i % 2), Outcome.CORRECT if i % 2 else Outcome.INCORRECT) for i in range(4)
        ]
        return [
            Group(
                prompt,
                [Sample(got[f"{self.calls}:{p}:{i}"], "", verdicts[i]) for i in range(4)],
            )
            for p, prompt in enumerate(prompts)
        ]

    def responses(self) -> list[Response]:
        """Those of ``sample``."""
        return responses_of(self.sample())

    def publisher(self, learners, timeout_s: float = 60.0) -> WeightPublisher:
        config = replace(self.config.weights, timeout_s=timeout_s)
        publisher = WeightPublisher(config, learners)
        self.do(publisher.start(self.pool.engines))
        return publisher


@pytest.fixture(scope="module")
def bench(ray_here, tiny_model):
    made: dict[bool, Bench] = {}

    def get(tied: bool) -> Bench:
        if tied not in made:
            made[tied] = Bench(tiny_model(tied))
        return made[tied]

    yield get
    for b in made.values():
        b.do(b.pool.close())


@pytest.fixture(scope="module")
def ranks(bench):
    """``ranks(config)``: the same two processes for all, with the model of ``config``."""
    b = bench(True)
    group = LearnerGroup(b.config, 0, learner_options(b.config, None))
    b.do(group.start())

    def rebuilt(config: RunConfig) -> LearnerGroup:
        b.do(group.rebuild(config))
        return group

    yield rebuilt
    b.do(group.close())


def train_a_step(bench: Bench, learners: LearnerGroup, groups: list[Group]) -> dict[str, float]:
    advantages = np.tile([-1.0, 1.0], 8)

    async def step():
        await learners.load(groups, advantages)
        await learners.score()
        await learners.assign_credit()
        return await learners.update()

    return bench.do(step())


@pytest.mark.parametrize(
    ("tied", "stage", "rank"),
    [(True, 2, 0), (True, 3, 0), (False, 2, 0), (False, 3, 0), (True, 3, 4)],
)
def test_engine_and_learner_agree_after_each_publish(bench, ranks, tied, stage, rank):
    b = bench(tied)
    config = configuration(b.model, stage)
    config.learner.lora.rank = rank
    learners = ranks(config)
    publisher = b.publisher(learners.workers)
    b.do(publisher.publish(100))
    before = b.responses()
    for version in (101, 102):
        groups = b.sample()
        assert {int(v) for r in responses_of(groups) for v in r.policy_version} == {version - 1}
        metrics = train_a_step(b, learners, groups)  # measured before its optimizer step
        assert metrics["mismatch/logp_max"] < 1e-5
        b.do(publisher.publish(version))
    changed = [
        not np.array_equal(x.logp_rollout, y.logp_rollout)
        for x, y in zip(before, b.responses(), strict=True)
    ]
    assert all(changed), "the engine still serves the old weights"


def test_sampling_is_reproducible_and_seeds_differ(bench):
    b = bench(True)
    first, second = b.responses(), b.responses()
    for x, y in zip(first, second, strict=True):
        np.testing.assert_array_equal(x.token_ids, y.token_ids)
    texts = {tuple(r.token_ids.tolist()) for r in first}
    assert len(texts) > 8


@pytest.fixture
def learners(bench, ranks) -> LearnerGroup:
    """With the weights that the model began with."""
    return ranks(configuration(bench(True).model))


def fingerprint(b: Bench) -> list[float]:
    return [float(r.logp_rollout.sum()) for r in b.responses()]


def test_a_running_response_goes_on_with_the_new_version(bench, learners):
    """Each token has the log-probability that it has under the version that it is said to be of."""
    b = bench(True)
    publisher = b.publisher(learners.workers)
    b.do(publisher.publish(130))
    train_a_step(b, learners, b.sample())
    sampling, one = Sampling(TEMPERATURE, 1.0, 0, 110, ()), Sampling(TEMPERATURE, 1.0, 0, 1, ())

    async def drawn(requests: list[Request]) -> dict[str, Response]:
        return {r.id: response async for some in b.pool.sample(requests) for r, response in some}

    async def across() -> dict[str, Response]:
        requests = [Request(f"across{i}", [5, 9, 11], i, sampling) for i in range(8)]
        sampled, _ = await asyncio.gather(drawn(requests), publisher.publish(131))
        return sampled

    across_two = [r for r in b.do(across()).values() if len(set(r.policy_version.tolist())) == 2]
    assert across_two, "no response was running when the new version came"
    for i, response in enumerate(across_two):
        ids = [5, 9, 11, *response.token_ids.tolist()]
        at = int(np.argmax(response.policy_version))  # the first token of the new version
        asked = [
            Request(f"again{i}:{t}", ids[: 3 + t], None, one, (ids[3 + t],)) for t in (at - 1, at)
        ]
        old, new = (r.choices.logp[0] for _, r in sorted(b.do(drawn(asked)).items(), key=last_int))
        assert abs(new - response.logp_rollout[at]) < 1e-4
        assert abs(old - response.logp_rollout[at - 1]) > 1e-4


def last_int(item: tuple[str, Response]) -> int:
    return int(item[0].rpartition(":")[2])


def test_who_has_slept_serves_nothing_before_a_version_has_come(bench, learners):
    b = bench(True)
    publisher = b.publisher(learners.workers)
    b.do(publisher.publish(150))
    before = fingerprint(b)
    b.do(b.pool.sleep())
    for tag in ("weights", "kv_cache", None):
        with pytest.raises(RolloutError, match="asked to sample while it sleeps"):
            b.sample()
        if tag:
            b.do(b.pool.wake_up(tag))
    b.do(publisher.publish(151))
    assert fingerprint(b) == before
    assert {int(v) for r in b.responses() for v in r.policy_version} == {151}


class Tampered:
    """Stands before a learner rank and changes what it tells the engines."""

    def __init__(self, rank, change):
        self._rank, self._change = rank, change

    def __getattr__(self, name):
        method = getattr(self._rank, name)
        if name != "send_weights":
            return method
        change = self._change

        class Call:
            @staticmethod
            def remote(version):
                async def altered():
                    return change(await method.remote(version))

                return altered()

        return Call()


def wrong_shape(info):
    if info:
        shapes = [list(s) for s in info["shapes"]]
        at = next(i for i, n in enumerate(info["names"]) if "layers.1.mlp.up_proj" in n)
        shapes[at].reverse()
        info = {**info, "shapes": shapes}
    return info


def test_a_shape_that_does_not_fit_is_named_and_undone(bench, learners):
    b = bench(True)
    good = b.publisher(learners.workers)
    b.do(good.publish(200))
    before = fingerprint(b)
    train_a_step(b, learners, b.sample())
    bad = b.publisher([Tampered(r, wrong_shape) for r in learners.workers])
    with pytest.raises(PublishError, match=r"rollout worker 0[\s\S]*layers\.1\.mlp\.up_proj"):
        b.do(bad.publish(201))
    assert fingerprint(b) == before
    assert {int(v) for r in b.responses() for v in r.policy_version} == {200}
    b.do(good.publish(202))
    assert fingerprint(b) != before


def test_an_engine_that_raises_is_heard_at_once(bench, learners):
    b = bench(True)
    publisher = b.publisher(
        [Tampered(r, lambda info: info and {**info, "objects": "x"}) for r in learners.workers]
    )
    before = fingerprint(b)
    started = time.monotonic()
    with pytest.raises(PublishError, match="rollout worker 0 failed"):
        b.do(publisher.publish(300))
    assert time.monotonic() - started < 60
    assert fingerprint(b) == before


def test_an_engine_that_stops_answering_ends_the_publish_in_time(bench, learners):
    b = bench(True)
    publisher = b.publisher(learners.workers, timeout_s=2.0)
    before = fingerprint(b)
    pid = ray.get(b.pool.actors[0].__ray_call__.remote(lambda self: os.getpid()))
    started = time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(PublishError, match=r"rollout worker 0 did not answer within 2 s"):
            b.do(publisher.publish(400))
    finally:
        os.kill(pid, signal.SIGCONT)
    assert time.monotonic() - started < 40
    assert fingerprint(b) == before, "a withdrawn version must not be loaded late"
    b.do(b.publisher(learners.workers).publish(401))
