"""Sources by weight, each without replacement; what teaches nothing rests."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.data.curriculum import Curriculum
from rlvr.data.sources import files, sources
from rlvr.data.stream import PromptStream
from rlvr.errors import ConfigError
from rlvr.types import Prompt

SHARES = st.lists(st.tuples(st.integers(1, 9), st.floats(0.05, 20)), min_size=2, max_size=4)


def stream_of(shares, seed=0, curriculum=None) -> PromptStream:
    ids = [(s, i) for s, (size, _) in enumerate(shares) for i in range(size)]
    prompts = [Prompt(f"{s}:{i}", [i], "", "", "math") for s, i in ids]
    return PromptStream(prompts, seed, sources=shares, curriculum=curriculum)


@given(shares=SHARES, seed=st.integers(0, 2**32), blocks=st.integers(1, 6))
def test_every_source_has_its_share_of_the_draws(shares, seed, blocks):
    draws = stream_of(shares, seed).draw(64 * blocks)
    drawn = Counter(int(d.prompt.id.split(":")[0]) for d in draws)
    whole = sum(weight for _, weight in shares)
    for s, (_, weight) in enumerate(shares):
        assert abs(drawn[s] - len(draws) * weight / whole) <= len(shares)


@given(shares=SHARES, seed=st.integers(0, 2**32))
def test_no_prompt_comes_again_before_its_source_is_through(shares, seed):
    draws = stream_of(shares, seed).draw(300)
    for s, (size, _) in enumerate(shares):
        own = [d for d in draws if d.prompt.id.startswith(f"{s}:")]
        for start in range(0, len(own) - size + 1, size):
            turn = own[start : start + size]
            assert len({d.prompt.id for d in turn}) == size
            assert {d.turn for d in turn} == {start // size}


@given(shares=SHARES, since=st.integers(0, 60), more=st.integers(0, 60))
def test_repeats_among_sources(shares, since, more):
    draws = stream_of(shares).draw(since + more + 1)
    expected = [d.prompt.id for d in draws[since:-1]].count(draws[-1].prompt.id)
    assert stream_of(shares).repeats(draws[-1], since) == expected


@given(shares=SHARES, useless=st.sets(st.integers(0, 8)), stop=st.integers(1, 150))
def test_a_curriculum_resumes(shares, useless, stop):
    """The same draws follow, whenever the state was taken."""

    def go(stream, count):
        ids = []
        for _ in range(count):
            [draw] = stream.draw(1)
            stream.settle([draw])
            stream.learn([(draw, int(draw.prompt.id.split(":")[1]) not in useless)])
            ids.append((draw.number, draw.prompt.id))
        return ids

    whole = stream_of(shares, curriculum=Curriculum())
    expected = go(whole, stop + 80)
    first = stream_of(shares, curriculum=Curriculum())
    assert go(first, stop) == expected[:stop]
    state = json.loads(json.dumps(first.state()))
    resumed = stream_of(shares, curriculum=Curriculum())
    resumed.restore(state)
    assert go(resumed, 80) == expected[stop:]


def test_what_teaches_nothing_rests_longer_and_longer_and_comes_back():
    stream = stream_of([(4, 1.0)], curriculum=Curriculum())
    turns = []
    for _ in range(150):
        [draw] = stream.draw(1)
        stream.settle([draw])
        stream.learn([(draw, draw.prompt.id != "0:2")])
        if draw.prompt.id == "0:2":
            turns.append(draw.turn)
    assert turns[:6] == [0, 2, 5, 10, 19, 28]
    assert stream.curriculum.known == 1
    stream.curriculum.saw("0:2", 30, True)
    assert not stream.curriculum.rests("0:2", 31) and stream.curriculum.known == 0


def test_when_all_rest_some_are_drawn_all_the_same():
    stream = stream_of([(3, 1.0)], curriculum=Curriculum())
    for _ in range(20):
        draws = stream.draw(2)
        stream.settle(draws)
        stream.learn([(draw, False) for draw in draws])
    assert stream.draw(2)


def test_other_weights_are_another_order():
    state = stream_of([(3, 1.0), (2, 1.0)]).state()
    with pytest.raises(ConfigError, match="weight is"):
        stream_of([(3, 1.0), (2, 3.0)]).restore(state)


def test_sources_are_read():
    assert files(["a.jsonl", "b.jsonl"]) == ["a.jsonl", "b.jsonl"]
    found = sources({"dapo": {"path": "d.parquet", "weight": 2}, "own": {"path": ["x", "y"]}})
    assert found["dapo"].weight == 2.0 and list(found["own"].files) == ["x", "y"]


@pytest.mark.parametrize(
    ("train", "told"),
    [
        ({"a": "x.jsonl"}, "data.train.a: must be"),
        ({"a": {"path": "x", "wieght": 1}}, "data.train.a.wieght: no such key"),
        ({"a": {"path": "x", "weight": 0}}, "data.train.a.weight=0: must be a number above 0"),
        ({"a": {"weight": 1}}, "data.train.a.path: must be a file"),
        (3, "data.train: must be a file or a list"),
        ([1], "data.train: must be a file or a list"),
    ],
)
def test_a_source_that_is_none_is_named(train, told):
    with pytest.raises(ConfigError, match=told):
        sources(train)
