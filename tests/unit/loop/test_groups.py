"""The group source: order, seeds, run-ahead, dynamic sampling. Engines are stood in for."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.config import BatchOrder, RunConfig
from rlvr.data.stream import PromptStream
from rlvr.errors import RunError
from rlvr.loop.groups import GroupSource
from rlvr.rollout.request import sample_seed
from rlvr.types import Outcome, Prompt, Response, Verdict


class ScriptedRollout:
    """Answers in random order, at random times; a response's text is its seed."""

    def __init__(self, slowest=3, dice=random):
        self.requests = []
        self.version = 0
        self.under_way = set()
        self.slowest = slowest
        self.dice = dice

    async def sample(self, requests):
        self.requests += requests
        begun = {r.id: self.version for r in requests}
        assert not self.under_way & set(begun), "an id is used twice"
        self.under_way |= set(begun)
        times = {}
        for r in requests:
            times.setdefault(self.dice.randrange(self.slowest), []).append(r)
        try:
            for moment in range(self.slowest):
                await asyncio.sleep(0)
                if parcel := times.pop(moment, None):
                    self.under_way -= {r.id for r in parcel}
                    yield [(r, self.response(r, begun[r.id])) for r in parcel]
        finally:
            self.under_way -= set(begun)

    def response(self, request, begun):
        ids = np.array([request.seed % 10**6, 7], np.int32)
        return Response(ids, np.zeros(2), np.array([begun, self.version]), "stop")


class ScriptedVerifiers:
    """Correct is what ``judge`` says of (prompt id, text)."""

    def __init__(self, judge):
        self.judge = judge

    async def verify(self, items):
        for _ in range(random.randrange(3)):
            await asyncio.sleep(0)
        good = [self.judge(p.id, text) for p, text in items]
        return [Verdict(float(g), Outcome.CORRECT if g else Outcome.INCORRECT) for g in good]


class Digits:
    def batch_decode(self, sequences, *, skip_special_tokens):
        return [str(int(s[0])) for s in sequences]


def source(judge=lambda i, text: int(text) % 2 == 0, prompts=40, state=None, **changed):
    config = RunConfig()
    config.rollout.group_size = 4
    config.train.steps, config.train.prompts_per_step = 5, 6
    for name, value in changed.items():
        setattr(config.train if hasattr(config.train, name) else config.rollout, name, value)
    stream = PromptStream(rows(prompts), seed=config.train.seed)
    if state is not None:
        stream.restore(state)
    rollout = ScriptedRollout()
    return (
        GroupSource(config, stream, rollout, ScriptedVerifiers(judge), Digits(), [0]),
        rollout,
        config,
    )


def rows(number):
    return [Prompt(f"p{i}", [1, 2], "", "", "exact") for i in range(number)]


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


@dataclass(frozen=True)
class Run:
    """What decides over a run, and what every draw of it must become."""

    staleness: int
    order: str
    dynamic: bool
    size: int
    prompts: int
    places: int  # of the engines
    slowest: int  # of the responses
    learning: int  # how long the learner takes
    seed: int

    def source(self, state=None):
        groups, rollout, config = source(
            prompts=self.prompts,
            state=state,
            seed=self.seed,
            group_size=2,
            prompts_per_step=self.size,
            max_staleness=self.staleness,
            batch_order=BatchOrder(self.order),
            dynamic_sampling=self.dynamic,
            max_running=self.places,
        )
        rollout.slowest, rollout.dice = self.slowest, random.Random(self.seed)
        return groups, rollout

    @cached_property
    def texts(self):
        """Of every draw, by its number."""
        step_of, texts, seen = -1, [], Counter()
        for draw in PromptStream(rows(self.prompts), self.seed).draw(400):
            if draw.number // self.size != step_of:
                step_of, seen = draw.number // self.size, Counter()
            first = 2 * seen[draw.prompt.id]
            seeds = [sample_seed(self.seed, draw.prompt.id, step_of, first + i) for i in (0, 1)]
            texts.append((draw.prompt.id, *(str(seed % 10**6) for seed in seeds)))
            seen[draw.prompt.id] += 1
        return texts

    def trained(self, start=0, state=None):
        """Batches, and the draws in them by their numbers; staleness is checked on the way."""
        groups, rollout = self.source(state)
        number_of = {text: number for number, text in enumerate(self.texts)}
        batches = []

        async def run():
            rollout.version = start
            async for batch in groups.batches(start):
                for _ in range(self.learning):
                    await asyncio.sleep(0)
                if self.staleness == 0:
                    assert not rollout.under_way, "engines are at work while the learner is"
                versions = [s.response.policy_version for g in batch.groups for s in g.samples]
                assert batch.step - self.staleness <= np.min(versions)
                assert np.max(versions) <= batch.step
                texts = [(g.prompt.id, *(s.text for s in g.samples)) for g in batch.groups]
                batches.append((batch, [number_of[text] for text in texts]))
                rollout.version = batch.step + 1

        asyncio.run(asyncio.wait_for(run(), 20))
        assert not rollout.under_way
        assert [batch.step for batch, _ in batches] == list(range(start, 5))
        assert all(len(numbers) == self.size for _, numbers in batches)
        return batches

    def useful(self, number):
        _, *texts = self.texts[number]
        return not self.dynamic or len({int(text) % 2 for text in texts}) == 2

    def under_way(self, state):
        """The numbers of the next 100 draws after a checkpoint."""
        stream = PromptStream(rows(self.prompts), self.seed)
        stream.restore(json.loads(json.dumps(state)))
        return [draw.number for draw in stream.draw(100)]


runs = st.builds(
    Run,
    staleness=st.integers(0, 3),
    order=st.sampled_from(["prompt", "finished"]),
    dynamic=st.booleans(),
    size=st.integers(1, 6),
    prompts=st.integers(1, 40),
    places=st.integers(1, 50),
    slowest=st.integers(1, 30),
    learning=st.integers(0, 40),
    seed=st.integers(0, 2**31),
)


@settings(max_examples=60)
@given(run=runs)
def test_every_draw_is_trained_on_once_and_in_time(run):
    done = []
    for batch, numbers in run.trained():
        done += numbers
        left = run.under_way(batch.stream_state)
        assert not set(done) & set(left)
        discarded = set(range(left[-1])) - set(done) - set(left)
        assert not any(run.useful(number) for number in discarded)
        if run.order == "prompt":
            assert done == sorted(done)
            assert left == list(range(done[-1] + 1, done[-1] + 101))
    assert len(done) == len(set(done)) and all(run.useful(number) for number in done)


@settings(max_examples=60)
@given(run=runs, resumed=st.integers(0, 4))
def test_a_resumed_run_trains_on_what_was_left(run, resumed):
    whole = run.trained()
    batch, _ = whole[resumed]
    done = [number for _, numbers in whole[: resumed + 1] for number in numbers]
    rest = [n for _, numbers in run.trained(batch.step + 1, batch.stream_state) for n in numbers]
    assert not set(done) & set(rest)
    if run.order == "prompt":
        assert done + rest == [number for _, numbers in whole for number in numbers]


def finishing(moments, **changed):
    """The places in the stream of what each of three batches holds, by when the draws finish."""
    groups, rollout, config = source(
        max_staleness=2, batch_order=BatchOrder.finished, group_size=1, **changed
    )
    then = itertools.chain(moments, itertools.repeat(1))
    rollout.slowest, rollout.dice = 30, SimpleNamespace(randrange=lambda n: next(then))
    order = [d.prompt.id for d in PromptStream(rows(40), seed=0).draw(40)]
    return [[order.index(g.prompt.id) for g in b.groups] for b in collect(groups, limit=3)]


def test_short_groups_overtake_slow_ones():
    first, second, third = finishing([29] * 4, max_running=6)
    assert first == [4, 5, 6, 7, 8, 9]
    assert {0, 1, 2, 3} <= {*second, *third}


def test_no_group_overtakes_more_than_the_next_batches_hold():
    """Draw 3 is done when the second batch is due; draws 1 and 2 need that one and the third."""
    assert finishing([0, 20, 29, 0], prompts_per_step=1) == [[0], [1], [2]]


def test_dynamic_sampling_fills_the_batch_with_spread_and_counts_the_rest():
    groups, _, _ = source(
        judge=lambda i, text: int(i[1:]) % 2 and int(text) % 2, dynamic_sampling=True
    )
    for batch in collect(groups, limit=2):
        assert len(batch.groups) == 6
        assert all(g.has_spread for g in batch.groups)
        assert batch.discarded


def test_dynamic_sampling_gives_up_where_nothing_has_spread():
    groups, _, _ = source(judge=lambda i, text: False, dynamic_sampling=True, max_sampling_rounds=3)
    with pytest.raises(RunError, match="found 0 groups with spread among 18 prompts at step 1"):
        collect(groups)


def test_the_stream_goes_on_from_a_batchs_state():
    groups, _, config = source()
    batches = collect(groups)
    stream = PromptStream(rows(40), seed=config.train.seed)
    stream.restore(batches[1].stream_state)
    assert [d.prompt.id for d in stream.draw(6)] == [g.prompt.id for g in batches[2].groups]


def test_a_failing_engine_is_heard():
    groups, rollout, _ = source()

    async def broken(requests):
        yield []
        raise RuntimeError("the engine's own words")

    rollout.sample = broken
    with pytest.raises(BaseException) as caught:
        collect(groups)
    assert "the engine's own words" in str(caught.getrepr())
