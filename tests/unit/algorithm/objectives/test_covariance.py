"""Clip-Cov and KL-Cov against their formulas, token by token, whatever the ranks and packing."""

from __future__ import annotations

import math
import random

import pytest
import torch

from rlvr.algorithm.objectives import OBJECTIVES, SelectingObjective
from rlvr.types import Totals


def draw(tiny, sizes=(4, 3, 5, 4)):
    batch = tiny.batch(sizes, lengths=[random.randint(3, 20) for _ in range(sum(sizes))])
    n = batch.num_response_tokens
    batch = tiny.replace(batch, importance=torch.rand(n, dtype=torch.float64) * 2)
    logp = batch.logp_old + 0.5 * torch.randn(n, dtype=torch.float64)
    return batch, logp, torch.rand(n, dtype=torch.float64) * 2


def build(name, **options):
    return OBJECTIVES.build({"name": name, **options}, "objective")


def literal_covariance(logp, batch, c):
    n = len(logp)
    a = [float(batch.token_advantage[t] * c[t]) for t in range(n)]
    x = logp.tolist()
    mean_a, mean_x = sum(a) / n, sum(x) / n
    return a, [(x[t] - mean_x) * (a[t] - mean_a) for t in range(n)]


def selected_on_ranks(tiny, objective, batch, logp, c, size):
    owners = torch.tensor([random.randrange(size) for _ in range(batch.num_sequences)])
    parts = []
    for r in range(size):
        own = torch.nonzero(owners == r)[:, 0]
        parts.append(batch.select(own[torch.randperm(len(own))]))
    found = tiny.on_ranks(
        size,
        lambda ranks: objective.selected(
            logp[parts[ranks.rank][1]], parts[ranks.rank][0], c[parts[ranks.rank][1]], ranks
        ),
    )
    chosen = torch.zeros(len(logp), dtype=torch.bool)
    for (_, n), own in zip(parts, found, strict=True):
        chosen[n] = own
    return chosen


@pytest.mark.parametrize("share", [1e-6, 0.1, 1.0])
@pytest.mark.parametrize("size", [1, 3])
def test_kl_cov_takes_the_highest_covariances(tiny, share, size):
    batch, logp, c = draw(tiny)
    _, covariance = literal_covariance(logp, batch, c)
    wanted = max(1, int(share * len(logp)))
    order = sorted(range(len(logp)), key=lambda t: -covariance[t])[:wanted]
    chosen = selected_on_ranks(tiny, build("kl_cov", share=share), batch, logp, c, size)
    assert sorted(order) == torch.nonzero(chosen)[:, 0].tolist()


@pytest.mark.parametrize("share", [1e-6, 0.1, 1.0])
@pytest.mark.parametrize("size", [1, 3])
def test_clip_cov_draws_among_those_in_the_range_that_are_not_clipped(tiny, share, size):
    batch, logp, c = draw(tiny)
    options = {"clip_low": 0.2, "clip_high": 0.3, "low": 0.1, "high": 0.8}
    a, covariance = literal_covariance(logp, batch, c)
    candidates = set()
    for t in range(len(logp)):
        r = math.exp(float(logp[t] - batch.logp_old[t]))
        clipped = (a[t] > 0 and r > 1.3) or (a[t] < 0 and r < 0.8)
        if 0.1 < covariance[t] < 0.8 and not clipped:
            candidates.add(t)
    wanted = min(max(1, int(share * len(logp))), len(candidates))
    objective = build("clip_cov", share=share, **options)
    chosen = selected_on_ranks(tiny, objective, batch, logp, c, size)
    found = set(torch.nonzero(chosen)[:, 0].tolist())
    assert found <= candidates and len(found) == wanted
    assert torch.equal(chosen, selected_on_ranks(tiny, objective, batch, logp, c, 1))
    if 0 < wanted < len(candidates):
        others = [build("clip_cov", share=share, seed=s, **options) for s in range(1, 30)]
        draws = [selected_on_ranks(tiny, other, batch, logp, c, 1) for other in others]
        assert any(not torch.equal(chosen, other) for other in draws)


def test_no_token_in_the_range_is_no_token(tiny):
    batch, logp, c = draw(tiny)
    objective = build("clip_cov", low=1e6, high=1e7)
    assert not selected_on_ranks(tiny, objective, batch, logp, c, 2).any()


@pytest.mark.parametrize("name", ["kl_cov", "clip_cov"])
@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
def test_loss_and_gradient_equal_the_formula_whatever_the_micro_batches(tiny, name, aggregation):
    batch, logp, c = draw(tiny)
    options = {"clip_low": 0.3, "clip_high": 0.4} if name == "clip_cov" else {"penalty": 0.7}
    objective = build(name, aggregation=aggregation, **options)
    assert isinstance(objective, SelectingObjective)
    assert not isinstance(build("dapo"), SelectingObjective)
    batch = tiny.replace(batch, selected=torch.rand(len(logp)) < 0.3)
    free = logp.clone().requires_grad_()
    per_response = []
    for i in range(batch.num_sequences):
        terms = []
        for t in torch.nonzero(batch.sequence_id == i)[:, 0].tolist():
            a, r = float(batch.advantage[i] * c[t]), torch.exp(free[t] - batch.logp_old[t])
            if name == "kl_cov":
                term = -r * a
                if batch.selected[t]:
                    term = term + 0.7 * torch.log(r).abs()
            else:
                term = -torch.min(r * a, r.clamp(0.7, 1.4) * a) * (not batch.selected[t])
            terms.append(term * float(batch.importance[t]))
        per_response.append(terms)
    if aggregation == "token_mean":
        expected = sum(sum(own) for own in per_response) / len(logp)
    else:
        expected = sum(sum(own) / len(own) for own in per_response) / len(per_response)
    (expected_gradient,) = torch.autograd.grad(expected, free)

    totals = Totals(len(logp), batch.num_sequences, len(batch.group_id.unique()), 31)
    free = logp.clone().requires_grad_()
    loss, share = 0.0, 0.0
    for part in torch.randperm(batch.num_sequences).split(5):
        micro, n = batch.select(part)
        terms = objective.loss(free[n], micro, c[n], totals)
        loss = loss + terms.loss
        share += float(terms.metrics["policy/selected"].total)
    (gradient,) = torch.autograd.grad(loss, free)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-9)
    assert share == int(batch.selected.sum())
