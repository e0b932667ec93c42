"""What is audited: both sides, spread positions, within the budget, and where there is a doubt."""

from __future__ import annotations

import numpy as np
import pytest

from rlvr.evaluation.audit_plan import TOLERANCE, planned, valued

DOUBT = 0.5


def continued(chosen, lengths):
    return sum(n < lengths[a.response] for a in chosen for n in a.lengths)


def test_all_positions_share_their_prefixes():
    lengths, advantages = [4, 3, 5, 2], np.array([1.0, -1.0, 1.0, 0.0])
    doubt = [np.full(n, DOUBT) for n in lengths]
    chosen = planned(doubt, advantages, [0, 0, 0, 1], most=0, budget=100)
    assert [a.response for a in chosen] == [0, 1, 2], "one of either side before a second"
    assert [a.lengths for a in chosen] == [[0, 1, 2, 3, 4], [0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]
    assert continued(chosen, lengths) == 4 + 3 + 5
    fewer = planned(doubt, advantages, [0, 0, 0, 1], 0, 11)
    assert [a.response for a in fewer] == [0, 1], "a larger budget only adds to a smaller one's"


def test_groups_and_sides_take_turns(seed):
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, 40, 64).tolist()
    advantages, group = np.tile([1.0, -1.0, 1.0, -1.0], 16), np.repeat(np.arange(16), 4).tolist()
    budget = 250
    chosen = planned([np.full(n, DOUBT) for n in lengths], advantages, group, 6, budget)
    assert budget - 12 < continued(chosen, lengths) <= budget
    for a in chosen:
        n = lengths[a.response]
        assert len(a.positions) == min(n, 6)
        assert a.positions[0] == 0 and a.positions[-1] == n - 1
        gaps = np.diff(a.positions)
        assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1
    counts = np.bincount([a.response // 4 * 2 + a.response % 2 for a in chosen], minlength=32)
    assert counts.max() - counts.min() <= 1


def test_one_value_stands_for_what_is_as_good_as_certain():
    sure = TOLERANCE / 3
    doubt = np.array([sure, sure, 0.5, sure, 0.2, sure, sure])
    assert valued(doubt).tolist() == [0, 0, 0, 3, 3, 7, 7, 7]
    [own] = planned([doubt], np.array([1.0]), [0], 0, 100)
    assert own.lengths == [0, 3, 7] and continued([own], [7]) == 2
    assert (own.before != own.after).tolist() == [False, False, True, False, True, False, False]


def test_values_are_off_by_no_more_than_the_tolerance(seed):
    """On a random tree of two tokens, with the value of every node computed backwards."""
    generator = np.random.default_rng(seed)
    n = 12
    for _ in range(50):
        doubt = np.where(generator.random(n) < 0.3, generator.random(n), generator.random(n) / 300)
        others, reward = generator.random(n), float(generator.integers(0, 2))
        value = np.full(n + 1, reward)
        for t in reversed(range(n)):
            value[t] = (1 - doubt[t]) * value[t + 1] + doubt[t] * others[t]
        off = np.abs(value[valued(doubt)] - value)
        assert off.max() <= TOLERANCE + 1e-12
        assert len(set(valued(doubt))) < n
    assert valued(np.zeros(3)).tolist() == [3, 3, 3, 3], "what had to come has its own reward"
    assert valued(np.zeros(0)).tolist() == pytest.approx([0])
