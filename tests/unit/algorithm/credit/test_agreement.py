"""How far methods agree: moments and gradients, formed whole in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rlvr.algorithm.credit import SoloRanks
from rlvr.algorithm.credit.agreement import correlation, gradient_cosines


def drawn_weights(batch, count=3):
    """A_i c_t of some methods, of which the second masks half of the tokens."""
    c = [torch.rand(batch.num_response_tokens, dtype=torch.float64) * 2 for _ in range(count)]
    c[1] = c[1] * (torch.rand_like(c[1]) < 0.5)
    return [batch.token_advantage * own for own in c]


def literal_cosines(batch, policy, weights, temperature):
    """From autograd of Σ a_t log p(y_t) with respect to the head, all tokens at once."""
    states = policy.hidden(policy.embed(batch.input_ids), batch)[batch.predict_index].detach()
    gradients = []
    for a in weights:
        head = policy.weight.detach().clone().requires_grad_()
        logp = (states @ head.T / temperature).log_softmax(-1)
        picked = logp[torch.arange(len(states)), batch.target]
        gradients.append(torch.autograd.grad((a * picked).sum(), head)[0].flatten())
    first, *others = gradients
    return [float(first @ own / (first.norm() * own.norm())) for own in others]


def on_ranks(tiny, batch, policy, weights, size, work):
    """``work(part, its weights, features, ranks)`` of a batch that is split over ranks."""
    owner = torch.randint(0, size, (batch.num_sequences,))
    parts = [batch.select(torch.nonzero(owner == r)[:, 0]) for r in range(size)]
    features = [tiny.Features(part, policy, 0.8) for part, _ in parts]

    def own(ranks):
        part, n = parts[ranks.rank]
        return work(part, [a[n] for a in weights], features[ranks.rank], ranks)

    first, *others = tiny.on_ranks(size, own)
    assert all(other == first for other in others), "equal on every rank"
    return first


@pytest.mark.parametrize("size", [1, 3])
def test_cosines_are_those_of_the_whole_gradients(tiny, size):
    batch, policy = tiny.batch(), tiny.Policy()
    weights = drawn_weights(batch)
    expected = literal_cosines(batch, policy, weights, 0.8)
    found = on_ranks(
        tiny, batch, policy, weights, size, lambda *own: gradient_cosines(own[1], own[0], *own[2:])
    )
    assert found == pytest.approx(expected, rel=1e-9)


def test_a_sketch_of_a_larger_vocabulary_is_within_its_bound(tiny):
    """Over many gradients, for a single one may be off by several deviations."""
    batch, policy = tiny.batch(vocabulary=400), tiny.Policy(vocabulary=400)
    weights = drawn_weights(batch, 20)
    features = tiny.Features(batch, policy, 0.8)
    expected = literal_cosines(batch, policy, weights, 0.8)
    for buckets in (64, 256):
        found = gradient_cosines(weights, batch, features, SoloRanks(), buckets)
        deviation = np.sqrt(np.mean(np.subtract(found, expected) ** 2))
        assert 0 < deviation < 2 * math.sqrt(2 / buckets)
    weights[1] = 2 * weights[0]
    same, *_ = gradient_cosines(weights, batch, features, SoloRanks(), 64)
    assert same == pytest.approx(1), "the sketch of both is the same"
    weights[1] = 0 * weights[0]
    assert gradient_cosines(weights, batch, features, SoloRanks())[0] is None


def test_tokens_that_were_not_scored_count_nowhere(tiny):
    batch, policy = tiny.batch(), tiny.Policy()
    weights = drawn_weights(batch)
    scored = torch.rand(batch.num_response_tokens) < 0.6
    features = tiny.Features(batch, policy, 0.8, scored)
    found = gradient_cosines(weights, batch, features, SoloRanks())
    masked = [torch.where(scored, a, 0.0) for a in weights]
    assert found == pytest.approx(literal_cosines(batch, policy, masked, 0.8), rel=1e-9)


@pytest.mark.parametrize("size", [1, 3])
def test_correlation_is_pearsons(tiny, size):
    batch, policy = tiny.batch(), tiny.Policy()
    n = batch.num_response_tokens
    x = torch.rand(n, dtype=torch.float64)
    y = x + torch.randn(n, dtype=torch.float64)
    member = torch.rand(n) < 0.7
    both = torch.stack([x, y, member.double()])

    def work(part, own, features, ranks):
        return correlation(own[0], own[1], own[2] > 0, ranks)

    found = on_ranks(tiny, batch, policy, both, size, work)
    assert found == pytest.approx(np.corrcoef(x[member], y[member])[0, 1], rel=1e-9)
    close = correlation(1 + 1e-7 * x, 1 + 1e-7 * y, member, SoloRanks())
    assert close == pytest.approx(found, rel=1e-6)


def test_no_correlation_with_what_is_constant():
    x, everything = torch.rand(50), torch.ones(50, dtype=torch.bool)
    for constant in (1.0, 0.83, 0.0):
        flat = torch.full((50,), constant)
        assert correlation(x, flat, everything, SoloRanks()) is None
        assert correlation(flat, x, everything, SoloRanks()) is None
    assert correlation(x, x, ~everything, SoloRanks()) is None
    assert correlation(x, -x, everything, SoloRanks()) == pytest.approx(-1)
