"""A response's seed is a function of what it is."""

from __future__ import annotations

from itertools import product

from rlvr.rollout.request import Request, Sampling, sample_seed


def test_seeds_are_stable_distinct_and_fit_63_bits():
    keys = list(product((0, 1), ("a", "b", "a1"), (0, 1, 11), range(8)))
    seeds = [sample_seed(*key) for key in keys]
    assert seeds == [sample_seed(*key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert all(0 <= s < 2**63 for s in seeds)
    assert sample_seed(0, "p", 1, 11) != sample_seed(0, "p", 11, 1)


def test_cost_is_the_most_a_request_can_hold():
    sampling = Sampling(1.0, 1.0, 0, 20, (1,))
    assert Request("r", [1, 2, 3], 0, sampling).cost == 23
