from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.data.stream import Draw, PromptStream
from rlvr.errors import ConfigError
from rlvr.types import Prompt


def prompts(n: int, prefix: str = "p") -> list[Prompt]:
    return [Prompt(f"{prefix}{i}", [i], "", "", "math") for i in range(n)]


def ids(draws: list[Draw]) -> list[str]:
    return [d.prompt.id for d in draws]


@given(
    n=st.integers(1, 20),
    seed=st.integers(0, 2**32),
    before=st.integers(0, 60),
    settled=st.sets(st.integers(0, 59)),
    after=st.lists(st.integers(1, 45), min_size=1, max_size=5),
)
def test_resumes_with_what_is_not_settled(n, seed, before, settled, after):
    stream = PromptStream(prompts(n), seed)
    drawn = stream.draw(before)
    stream.settle(d for d in drawn if d.number in settled)
    under_way = [d for d in drawn if d.number not in settled]
    state = json.loads(json.dumps(stream.state()))
    uninterrupted = under_way + [d for size in after for d in stream.draw(size)]

    resumed = PromptStream(prompts(n), seed)
    resumed.settle(resumed.draw(7))  # whatever it did before is forgotten
    resumed.restore(state)
    assert [(d.number, d.prompt.id) for d in resumed.draw(len(uninterrupted))] == [
        (d.number, d.prompt.id) for d in uninterrupted
    ]
    resumed.settle(uninterrupted)
    stream.settle(uninterrupted)
    assert resumed.state() == stream.state()
    stream.rewind()
    assert ids(stream.draw(9)) == ids(resumed.draw(9))


@given(n=st.integers(1, 9), since=st.integers(0, 40), more=st.integers(0, 40))
def test_counts_how_often_a_prompt_came(n, since, more):
    draws = PromptStream(prompts(n), 5).draw(since + more + 1)
    expected = ids(draws[since:-1]).count(draws[-1].prompt.id)
    assert PromptStream(prompts(n), 5).repeats(draws[-1], since) == expected


@given(n=st.integers(1, 20), sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8))
def test_sequence_does_not_depend_on_batch_sizes(n, sizes):
    stream, at_once = PromptStream(prompts(n), 3), PromptStream(prompts(n), 3)
    batches = [ids(stream.draw(size)) for size in sizes]
    assert [len(b) for b in batches] == sizes
    assert sum(batches, []) == ids(at_once.draw(sum(sizes)))


def test_every_epoch_holds_every_prompt_once_in_an_order_of_its_own():
    data = prompts(50)
    stream = PromptStream(data, seed=11)
    epochs = [ids(stream.draw(50)) for _ in range(4)]
    assert all(Counter(e) == Counter(p.id for p in data) for e in epochs)
    assert len({tuple(e) for e in epochs} | {tuple(p.id for p in data)}) == 5
    assert ids(PromptStream(data, seed=12).draw(50)) not in epochs


def test_positions_are_uniform():
    """Over many seeds every prompt is first about equally often."""
    n, draws = 5, 2000
    first = Counter(PromptStream(prompts(n), seed).draw(1)[0].prompt.id for seed in range(draws))
    chi_squared = sum((first[f"p{i}"] - draws / n) ** 2 / (draws / n) for i in range(n))
    assert chi_squared < 23.5  # p = 1e-4 at 4 degrees of freedom


def test_order_is_pinned():
    """A checkpoint must continue alike in every later version of this package."""
    order = "p3 p2 p1 p6 p0 p7 p4 p5 p7 p4 p5 p1 p6 p2 p0 p3"  # two epochs
    assert ids(PromptStream(prompts(8), seed=0).draw(16)) == order.split()


def test_without_shuffling():
    stream = PromptStream(prompts(3), seed=0, shuffle=False)
    assert ids(stream.draw(7)) == ["p0", "p1", "p2", "p0", "p1", "p2", "p0"]


@pytest.mark.parametrize(
    "other",
    [prompts(5), prompts(4, "q"), prompts(4)[::-1], prompts(3)],
    ids=["longer", "renamed", "reordered", "shorter"],
)
def test_state_of_other_data_is_refused(other):
    state = PromptStream(prompts(4), 0).state()
    with pytest.raises(ConfigError, match="other data.*start a new run"):
        PromptStream(other, 0).restore(state)


def test_state_of_another_order_is_refused():
    state = PromptStream(prompts(4), seed=1).state()
    with pytest.raises(ConfigError, match="seed is 2, the checkpoint's is 1"):
        PromptStream(prompts(4), seed=2).restore(state)
    with pytest.raises(ConfigError, match="shuffle is False"):
        PromptStream(prompts(4), seed=1, shuffle=False).restore(state)


def test_no_prompts():
    with pytest.raises(ConfigError, match="no prompt"):
        PromptStream([], 0)
