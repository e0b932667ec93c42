"""The group source: order, seeds, run-ahead, dynamic sampling. Engines are stood in for."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import pytest

from rlvr.config import RunConfig
from rlvr.data.stream import PromptStream
from rlvr.errors import RunError
from rlvr.loop.groups import GroupSource
from rlvr.rollout.request import sample_seed
from rlvr.types import Outcome, Prompt, Response, Verdict


class ScriptedRollout:
    """Answers in random order, a few at a time; a response's text is its seed."""

    def __init__(self):
        self.requests = []
        self.running = 0
        self.most_running = 0

    async def sample(self, requests):
        self.requests += requests
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        left = random.sample(list(requests), len(requests))
        while left:
            await asyncio.sleep(0)
            parcel, left = left[:3], left[3:]
            yield [
                (
                    r,
                    Response(
                        np.array([r.seed % 10**6, 7], np.int32), np.zeros(2), np.zeros(2), "stop"
                    ),
                )
                for r in parcel
            ]
        self.running -= 1


class ScriptedVerifiers:
    """Correct is what ``judge`` says of (prompt id, text)."""

    def __init__(self, judge):
        self.judge = judge

    async def verify(self, items):
        await asyncio.sleep(random.random() / 1000)
        good = [self.judge(p.id, text) for p, text in items]
        return [Verdict(float(g), Outcome.CORRECT if g else Outcome.INCORRECT) for g in good]


class Digits:
    def batch_decode(self, sequences, *, skip_special_tokens):
        return [str(int(s[0])) for s in sequences]


def source(judge=lambda i, text: int(text) % 2 == 0, prompts=40, **train):
    config = RunConfig()
    config.rollout.group_size = 4
    config.train.steps, config.train.prompts_per_step = 5, 6
    for name, value in train.items():
        setattr(config.train, name, value)
    rows = [Prompt(f"p{i}", [1, 2], "", "", "exact") for i in range(prompts)]
    rollout = ScriptedRollout()
    stream = PromptStream(rows, seed=config.train.seed)
    return (
        GroupSource(config, stream, rollout, ScriptedVerifiers(judge), Digits(), [0]),
        rollout,
        config,
    )


def collect(groups, start=0, limit=99):
    async def run():
        batches = []
        async for batch in groups.batches(start):
            batches.append(batch)
            if len(batches) == limit:
                break
        return batches

    return asyncio.run(run())


def test_groups_are_whole_ordered_and_seeded_by_what_they_are():
    groups, _, config = source()
    twin, _, _ = source()
    first, second = collect(groups), collect(twin)
    assert [b.step for b in first] == list(range(5))
    for a, b in zip(first, second, strict=True):
        assert [g.prompt.id for g in a.groups] == [g.prompt.id for g in b.groups]
        for group, other in zip(a.groups, b.groups, strict=True):
            texts = [s.text for s in group.samples]
            assert texts == [s.text for s in other.samples]
            seeds = [sample_seed(config.train.seed, group.prompt.id, a.step, i) for i in range(4)]
            assert texts == [str(s % 10**6) for s in seeds]
            for sample in group.samples:
                assert sample.text == str(sample.response.token_ids[0])
                assert (sample.verdict.outcome is Outcome.CORRECT) == (int(sample.text) % 2 == 0)


def test_a_prompt_drawn_twice_in_a_step_gets_other_samples():
    groups, rollout, _ = source(prompts=3)  # six prompts a step: each of the three twice
    [batch] = collect(groups, limit=1)
    assert len({r.seed for r in rollout.requests}) == 24
    by_prompt = {}
    for group in batch.groups:
        by_prompt.setdefault(group.prompt.id, []).append([s.text for s in group.samples])
    assert all(a != b for a, b in by_prompt.values())


@pytest.mark.parametrize("staleness", [0, 2])
def test_no_more_batches_are_in_the_making_than_staleness_allows(staleness):
    groups, rollout, _ = source(max_staleness=staleness)

    async def run():
        async for _ in groups.batches(0):
            for _ in range(50):
                await asyncio.sleep(0.001)  # the learner at work

    asyncio.run(run())
    assert rollout.most_running <= staleness + 1
    assert (rollout.most_running > 1) == (staleness > 0)


def test_dynamic_sampling_fills_the_batch_with_spread_and_counts_the_rest():
    groups, _, _ = source(
        judge=lambda i, text: int(i[1:]) % 2 and int(text) % 2, dynamic_sampling=True
    )
    for batch in collect(groups, limit=2):
        assert len(batch.groups) == 6
        assert all(g.has_spread for g in batch.groups)
        assert batch.discarded > 0


def test_dynamic_sampling_gives_up_where_nothing_has_spread():
    groups, _, _ = source(judge=lambda i, text: False, dynamic_sampling=True, max_sampling_rounds=3)
    with pytest.raises(RunError, match="found 0 groups with spread among 18 prompts at step 1"):
        collect(groups)


def test_the_stream_goes_on_from_a_batchs_state():
    groups, _, config = source()
    batches = collect(groups)
    rows = [Prompt(f"p{i}", [1, 2], "", "", "exact") for i in range(40)]
    stream = PromptStream(rows, seed=config.train.seed)
    stream.restore(batches[1].stream_state)
    assert [p.id for p in stream.next_batch(6)] == [g.prompt.id for g in batches[2].groups]


def test_a_failing_engine_is_heard():
    groups, rollout, _ = source()

    async def broken(requests):
        yield []
        raise RuntimeError("the engine's own words")

    rollout.sample = broken
    with pytest.raises(BaseException) as caught:
        collect(groups)
    assert "the engine's own words" in str(caught.getrepr())
