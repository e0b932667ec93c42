"""What is audited: both sides, spread positions, within the budget."""

from __future__ import annotations

import numpy as np

from rlvr.evaluation.audit_plan import planned


def continued(chosen, lengths):
    return sum(n < lengths[a.response] for a in chosen for n in a.lengths)


def test_all_positions_share_their_prefixes():
    lengths, advantages = [4, 3, 5, 2], np.array([1.0, -1.0, 1.0, 0.0])
    chosen = planned(lengths, advantages, [0, 0, 0, 1], most=0, budget=100)
    assert [a.response for a in chosen] == [0, 1, 2], "one of either side before a second"
    assert [a.lengths for a in chosen] == [[0, 1, 2, 3, 4], [0, 1, 2, 3], [0, 1, 2, 3, 4, 5]]
    assert continued(chosen, lengths) == 4 + 3 + 5
    fewer = planned(lengths, advantages, [0, 0, 0, 1], 0, 11)
    assert [a.response for a in fewer] == [0, 1]


def test_groups_and_sides_take_turns(seed):
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, 40, 64).tolist()
    advantages, group = np.tile([1.0, -1.0, 1.0, -1.0], 16), np.repeat(np.arange(16), 4).tolist()
    budget = 250
    chosen = planned(lengths, advantages, group, most=6, budget=budget)
    assert budget - 12 < continued(chosen, lengths) <= budget
    for a in chosen:
        n = lengths[a.response]
        assert len(a.positions) == min(n, 6)
        assert a.positions[0] == 0 and a.positions[-1] == n - 1
        gaps = np.diff(a.positions)
        assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1
    counts = np.bincount([a.response // 4 * 2 + a.response % 2 for a in chosen], minlength=32)
    assert counts.max() - counts.min() <= 1
