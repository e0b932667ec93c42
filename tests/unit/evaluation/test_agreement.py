"""Agreement of credit with effects, against definitions written out."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, permutations

import numpy as np
import pytest
from scipy.stats import spearmanr

from rlvr.evaluation.agreement import agreements, auc, ndcg, rank_correlation
from rlvr.evaluation.effects import Effects, difference_interval


def test_ranks_correlate_as_spearman_says(seed):
    generator = np.random.default_rng(seed)
    x = generator.integers(0, 6, 80).astype(float)  # with many equal values
    y = x + generator.normal(0, 2, 80)
    cluster = generator.integers(0, 9, 80)
    found = rank_correlation(x, y, cluster)
    assert found.value == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
    assert found.low < found.value < found.high
    alone = rank_correlation(x, y, np.zeros(80, int))
    assert np.isnan([alone.low, alone.high]).all(), "nobody knows how another response would be"
    assert np.isnan(rank_correlation(np.ones(80), y, cluster).value)


def test_the_interval_of_a_correlation_holds_its_truth(seed):
    generator = np.random.default_rng(seed)
    held = 0
    for _ in range(40):  # responses of 5 tokens that share a part of what they are
        shared = generator.normal(size=(40, 1))
        x = shared + generator.normal(size=(40, 5))
        y = shared + generator.normal(size=(40, 5))  # Pearson 0.5
        e = rank_correlation(x.ravel(), y.ravel(), np.arange(40).repeat(5))
        held += e.low <= 6 / np.pi * np.arcsin(0.5 / 2) <= e.high
    assert held >= 29


def test_auc_counts_pairs(seed):
    generator = np.random.default_rng(seed)
    score, label = generator.integers(0, 4, 30).astype(float), generator.random(30) < 0.3
    label[:2] = True, False
    pairs = [(a > b) + 0.5 * (a == b) for a in score[label] for b in score[~label]]
    assert auc(score, label) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert np.isnan(auc(score, np.ones(30, bool)))


def test_ndcg_is_the_mean_over_the_orders_of_equal_scores(seed):
    generator = np.random.default_rng(seed)
    score, gain = generator.integers(0, 3, 7).astype(float), generator.random(7)
    gain[3] = 0.0
    discount = 1 / np.log2(np.arange(7) + 2.0)
    orders = [
        np.array(p)
        for p in permutations(range(7))
        if all(score[i] >= score[j] for i, j in pairwise(p))
    ]
    expected = np.mean([gain[o] @ discount for o in orders]) / (np.sort(gain)[::-1] @ discount)
    assert ndcg(score, gain) == pytest.approx(expected, abs=1e-12)
    assert ndcg(-gain, gain) < ndcg(np.ones(7), gain) < ndcg(gain, gain)
    assert ndcg(gain, gain) == pytest.approx(1.0, abs=1e-12)
    assert np.isnan(ndcg(score, np.zeros(7)))


def test_intervals_of_differences_hold_them_99_times_in_100(seed):
    generator = np.random.default_rng(seed)
    for p, q in ((0.0, 0.03), (0.5, 0.5), (0.95, 0.4)):
        before, after = (generator.random((4000, 16)) < v for v in (p, q))
        delta, low, high = difference_interval(2.0 * before - 1, 2.0 * after - 1, -1.0, 1.0)
        np.testing.assert_allclose(delta, 2 * (after.mean(1) - before.mean(1)))
        assert np.mean((low <= 2 * (q - p)) & (2 * (q - p) <= high)) > 0.98
    delta, low, high = difference_interval(np.zeros((1, 16)), np.ones((1, 16)), 0.0, 1.0)
    assert delta == 1 and 0 < low < high <= 1
    assert not difference_interval(np.ones((1, 2)), np.ones((1, 2)), 1.0, 1.0)[1] > 0


def test_of_audited_tokens_by_side():
    """By hand: two responses, the right one's second token and the wrong one's first decided."""
    delta = np.array([0.0, 0.9, 0.1, -0.8, 0.0, -0.1])
    reach = 0.3
    effects = Effects(
        response=np.repeat([4, 9], 3),
        position=np.tile([0, 1, 2], 2),
        advantage=np.repeat([1.0, -1.0], 3),
        doubt=np.array([0.5, 0.2, 0.4, 0.3, 0.0, 0.1]),
        delta=delta,
        low=delta - reach,
        high=delta + reach,
        reliability=0.9,
        coefficients={
            "right": np.array([0.5, 2.0, 0.6, 2.0, 0.4, 0.5]),
            "wrong": np.array([1.5, 0.1, 1.4, 0.1, 1.5, 1.4]),
            "uniform": np.ones(6),
        },
    )
    assert effects.decisive.tolist() == [False, True, False, True, False, False]
    found = agreements(effects)
    for side in ("all", "positive", "negative"):
        assert found["right"][side]["auc"].value == found["right"][side]["ndcg"].value == 1.0
        assert found["wrong"][side]["auc"].value == 0.0
        assert found["uniform"][side]["auc"].value == 0.5
    chance = np.mean(1 / np.log2([2, 3, 4]))
    assert found["uniform"]["all"]["ndcg"].value == pytest.approx(chance)
    assert found["right"]["positive"]["correlation"].value == pytest.approx(1.0)
    assert found["right"]["all"]["correlation"].value > found["uniform"]["all"]["correlation"].value
    assert np.isnan(found["uniform"]["negative"]["correlation"].value)
    share = {name: own["all"]["gradient_share"].value for name, own in found.items()}
    assert share["uniform"] == pytest.approx((0.2 + 0.3) / 1.5)
    assert share["right"] == pytest.approx((0.4 + 0.6) / (0.25 + 0.4 + 0.24 + 0.6 + 0.05))
    good = replace(effects, delta=np.abs(delta), low=np.abs(delta) - reach)
    assert agreements(good)["uniform"]["all"]["gradient_share"].value == pytest.approx(-0.1 / 1.5)
    sure = agreements(replace(effects, doubt=np.zeros(6)))
    assert np.isnan(sure["uniform"]["all"]["gradient_share"].value)
