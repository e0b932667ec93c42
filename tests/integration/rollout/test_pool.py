"""The pool with a real engine: what is asked for comes back whole, what cannot be is said."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest
import ray
import torch

from rlvr.config import RunConfig
from rlvr.errors import RunError
from rlvr.loop.cluster import engine_options
from rlvr.loop.resolve import resolved
from rlvr.place import Place
from rlvr.rollout.pool import RolloutError, RolloutPool
from rlvr.rollout.request import Request, Sampling, sample_seed

TEMPERATURE = 0.7
LONGEST = 128


class Bench:
    """One engine, and the loop that drives its pool."""

    def __init__(self, model: str) -> None:
        config = RunConfig()
        config.model.path, config.model.dtype = model, "float32"
        config.cluster.gpus_per_node = 0
        config.rollout.max_running = 16
        config.rollout.engine = {"max_model_len": LONGEST}
        config = resolved(config)
        self.model = model
        self.loop = asyncio.new_event_loop()
        self.pool = RolloutPool(config, engine_options(config, None))
        self.do(self.pool.start())

    def do(self, coroutine):
        return self.loop.run_until_complete(asyncio.wait_for(coroutine, 240))

    def sample(self, requests):
        """Responses in the order of the requests."""

        async def gather():
            return [pair async for parcel in self.pool.sample(requests) for pair in parcel]

        got = {request.id: response for request, response in self.do(gather())}
        assert set(got) == {r.id for r in requests}
        return [got[r.id] for r in requests]


@pytest.fixture(scope="session")
def bench(ray_here, tiny_model):
    bench = Bench(tiny_model(False))
    yield bench
    bench.do(bench.pool.close())


def asked(name: str, prompt: list[int], sample: int = 0, most: int = 24, **options) -> Request:
    sampling = Sampling(options.pop("temperature", TEMPERATURE), 1.0, 0, most, (1,))
    return Request(f"{name}:{sample}", prompt, sample_seed(0, name, 0, sample), sampling, **options)


def test_responses_are_whole_whatever_their_order_and_length(bench):
    requests = [asked("whole", [5, 9, 11], i, most=1 + 7 * (i % 4)) for i in range(12)]
    for request, response in zip(requests, bench.sample(requests), strict=True):
        n, most = len(response.token_ids), request.sampling.max_tokens
        assert 1 <= n <= most
        assert len(response.logp_rollout) == len(response.policy_version) == n
        stopped = int(response.token_ids[-1]) == 1
        assert response.finish_reason == ("stop" if stopped else "length")
        assert stopped or n == most


def test_a_seed_gives_the_same_response_again_and_another_another(bench):
    requests = [asked("seed", [7, 8], i) for i in range(8)]
    first, second = bench.sample(requests), bench.sample(requests)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.token_ids, b.token_ids)
    assert len({tuple(r.token_ids.tolist()) for r in first}) > 4


def test_log_probabilities_are_those_of_the_distribution_that_was_sampled(bench):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(bench.model, dtype=torch.float32)
    prompt = [5, 17, 33]
    for response in bench.sample([asked("logp", prompt, i) for i in range(4)]):
        ids = torch.tensor([*prompt, *response.token_ids.tolist()])
        with torch.no_grad():
            logits = model(ids[None]).logits[0, len(prompt) - 1 : -1]
        logp = (logits / TEMPERATURE).log_softmax(-1)
        expected = logp.gather(1, ids[len(prompt) :, None])[:, 0].numpy()
        np.testing.assert_allclose(response.logp_rollout, expected, atol=1e-4)


def test_choices_are_the_most_probable_first_tokens(bench):
    [response] = bench.sample([asked("choices", [5, 17, 33], temperature=1.0, choices=5)])
    offered, logp = response.choices.token_ids, response.choices.logp
    assert len(set(offered.tolist())) == 5 and np.all(np.diff(logp) <= 0)
    [named] = bench.sample([asked("named", [5, 17, 33], temperature=1.0, choices=(3, 60))])
    assert set(named.choices.token_ids.tolist()) == {3, 60}


def test_the_prefix_cache_changes_no_number(bench):
    prompt = np.random.default_rng(0).integers(3, 128, 90).tolist()
    cold, warm = (bench.sample([asked("prefix", prompt, temperature=0.0)])[0] for _ in range(2))
    np.testing.assert_array_equal(cold.token_ids, warm.token_ids)
    np.testing.assert_allclose(cold.logp_rollout, warm.logp_rollout, atol=1e-5)


def test_a_request_that_can_never_run_is_refused_with_the_reason(bench):
    with pytest.raises(RolloutError, match=rf"rollout worker 0 failed[\s\S]*{LONGEST}"):
        bench.sample([asked("long", [5] * (LONGEST + 1))])
    assert bench.sample([asked("after", [5, 6])])


def test_what_nobody_waits_for_is_aborted(bench):
    steps = bench.pool.actors[0].state

    async def leave_early() -> int:
        requests = [asked("left", [5, 6], i, most=1 if i == 0 else 100) for i in range(16)]
        sampling = bench.pool.sample(requests)
        await anext(sampling)
        await sampling.aclose()
        return (await steps.remote())["steps"]

    left = bench.do(leave_early())
    time.sleep(3)
    after = ray.get(steps.remote())["steps"]
    assert after < left + 50, "the engine still decodes what nobody waits for"
    assert bench.sample([asked("next", [5, 6])])


def test_an_engine_that_fails_is_heard_by_whoever_waits(bench):
    """The last test: the engine is lost."""

    def fail(engine) -> None:
        raise ArithmeticError("the dice are loaded")

    ray.get(bench.pool.actors[0].__ray_call__.remote(lambda self: self._inbox.put(fail)))
    with pytest.raises(RolloutError, match=r"rollout worker 0 failed[\s\S]*the dice are loaded"):
        bench.sample([asked("lost", [5, 6])])


def test_too_few_workers_with_a_machine_end_the_run(ray_here):
    config = RunConfig()
    config.cluster.gpus_per_node, config.cluster.rejoin_s = 0, 0.5
    config.rollout.start_timeout_s = 0.5
    config = resolved(config)
    places = [Place({"CPU": 0.1}), Place({"of another machine": 1.0})]

    async def introduce(name, engine, start) -> None:
        raise AssertionError(f"{name} has no machine")

    async def lose() -> None:
        pool = RolloutPool(config, engine_options(config, places), introduce)
        with pytest.raises(RolloutError, match=r"rollout\.start_timeout_s"):
            await pool.start()
        pool.replace(pool.actors[0], RolloutError("its machine is gone"))
        with pytest.raises(RunError, match=r"no machine has room for rollout worker 0 \(0 of 1"):
            await anext(pool.sample([asked("lost", [5, 6])]))
        await pool.close()

    asyncio.run(asyncio.wait_for(lose(), 60))
    for place in places:
        place.release()
