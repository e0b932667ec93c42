from __future__ import annotations

import math
import random

import pytest
import torch

from rlvr.algorithm.credit import CREDITS, Needs, SoloRanks
from rlvr.algorithm.credit.diagnostics import coefficient_metrics, separation_auc


def build(name, **options):
    return CREDITS.build({"name": name, **options}, "credit")


def test_uniform(tiny):
    credit = tiny.assign(build("uniform"), tiny.batch(), tiny.Policy())
    assert (credit.coefficients == 1).all()


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("size", [1, 3])
def test_entropy_top_keeps_the_highest(tiny, share, size):
    policy, batch = tiny.Policy(), tiny.batch((4, 4, 3))
    features = tiny.Features(batch, policy)
    n = batch.num_response_tokens
    least = sorted(features.entropy.tolist(), reverse=True)[math.ceil(share * n) - 1]
    expected = (features.entropy >= least).double()  # what ties with the last one stays too
    owners = [random.randrange(size) for _ in range(batch.num_sequences)]
    method = build("entropy_top", share=share)
    coefficients, _ = tiny.assign_on_ranks(method, batch, policy, owners, size)
    assert torch.equal(coefficients, expected)


def test_entropy_top_is_of_the_whole_batch(tiny):
    """Whatever the objective leaves without a gradient: all tokens are asked for."""
    assert Needs.EVERY_TOKEN in build("entropy_top").needs
    policy, batch = tiny.Policy(), tiny.batch((4, 4, 3))
    flat = tiny.replace(batch, advantage=torch.zeros_like(batch.advantage))
    a, b = (tiny.assign(build("entropy_top"), x, policy).coefficients for x in (batch, flat))
    assert torch.equal(a, b) and a.any()


def test_random_is_a_draw_per_response(tiny):
    policy, batch = tiny.Policy(), tiny.batch((20, 20, 20))
    c = tiny.assign(build("random"), batch, policy).coefficients
    assert float(c.sum()) == pytest.approx(len(c))
    assert 0.75 < float(c.min()) < 0.85 and 1.15 < float(c.max()) < 1.25
    assert float(c.std()) == pytest.approx(0.4 / math.sqrt(12), rel=0.15)
    owners = [random.randrange(2) for _ in range(60)]
    split, _ = tiny.assign_on_ranks(build("random"), batch, policy, owners, 2)
    torch.testing.assert_close(split, c)
    again = tiny.assign(build("random", seed=1), batch, policy).coefficients
    later = tiny.assign(
        build("random"), tiny.replace(batch, policy_version=batch.policy_version + 1), policy
    ).coefficients
    assert (again != c).float().mean() > 0.9 and (later != c).float().mean() > 0.9


def test_coefficient_metrics(seed):
    c = torch.rand(200, dtype=torch.float64)
    a = torch.randn(200, dtype=torch.float64)
    a[::5] = 0
    metrics = coefficient_metrics(c, a, SoloRanks())
    for name, side in (("positive", a > 0), ("negative", a < 0)):
        assert metrics[f"{name}_mean"] == pytest.approx(float(c[side].mean()))
        assert metrics[f"{name}_std"] == pytest.approx(float(c[side].std(correction=0)))
        assert metrics[f"{name}_min"] == float(c[side].min())
        assert metrics[f"{name}_max"] == float(c[side].max())
    ess = float(c.sum() ** 2 / (c**2).sum() / 200)
    assert metrics["effective_sample_size"] == pytest.approx(ess)
    assert "negative_mean" not in coefficient_metrics(c, a.abs(), SoloRanks())
    assert coefficient_metrics(c[:0], a[:0], SoloRanks()) == {}


def test_separation_auc(seed):
    positive = torch.rand(300) < 0.4
    score = torch.randn(300).double() + positive * 0.8
    wins = 0.0
    for x in score[positive].tolist():
        for y in score[~positive].tolist():
            wins += (x > y) + 0.5 * (x == y)
    exact = wins / (int(positive.sum()) * int((~positive).sum()))
    assert separation_auc(score, positive, SoloRanks()) == pytest.approx(exact, abs=2e-3)
    assert separation_auc(torch.zeros(300), positive, SoloRanks()) == 0.5
