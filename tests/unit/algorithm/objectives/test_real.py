from __future__ import annotations

import math
import random

import pytest
import torch

from rlvr.algorithm.objectives import OBJECTIVES
from rlvr.algorithm.objectives.real import real_loss
from rlvr.types import Totals

VARIANTS = {"real": "softmax", "real_bce": "bce", "real_product": "product"}


def literal(score, label, group_id, tau, variant):
    """The formulas, group by group."""
    total, groups, responses = torch.zeros((), dtype=torch.float64), 0, 0
    for g in group_id.unique():
        own = group_id == g
        groups += 1
        pos = [s for s, y in zip(score[own], label[own], strict=True) if y]
        neg = [s for s, y in zip(score[own], label[own], strict=True) if not y]
        if not pos or not neg:
            continue
        responses += len(pos) + len(neg)
        sum_neg = sum(torch.exp(s / tau) for s in neg)
        sum_pos = sum(torch.exp(-s / tau) for s in pos)
        if variant == "softmax":
            total = total + torch.log(1 + sum_neg) + torch.log(1 + sum_pos)
        elif variant == "product":
            total = total + torch.log(1 + sum_neg * sum_pos)
        else:
            total = total - sum(torch.log(1 / (1 + torch.exp(-s / tau))) for s in pos)
            total = total - sum(torch.log(1 - 1 / (1 + torch.exp(-s / tau))) for s in neg)
    return total / (max(responses, 1) if variant == "bce" else groups)


def draw():
    """Groups of several sizes, with one kind of label only in some."""
    group, label = [], []
    for g in range(6):
        size = random.randint(2, 7)
        kinds = [True] * size if g == 0 else [False] * size if g == 1 else None
        kinds = kinds or [True, False, *(random.random() < 0.4 for _ in range(size - 2))]
        group += [1000 - g] * size
        label += kinds
    order = torch.randperm(len(group))
    score = torch.randn(len(group), dtype=torch.float64)
    return score, torch.tensor(label)[order], torch.tensor(group)[order]


def build(name, **options):
    return OBJECTIVES.build({"name": name, **options}, "objective")


@pytest.mark.parametrize("variant", VARIANTS.values())
def test_value_and_gradient_equal_the_formula(seed, variant):
    score, label, group = draw()
    tau = 0.2 + random.random()
    free = score.requires_grad_()
    expected = literal(free, label, group, tau, variant)
    loss = real_loss(free, label, group, tau=tau, variant=variant)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        torch.autograd.grad(loss, free)[0],
        torch.autograd.grad(expected, free)[0],
        rtol=1e-9,
        atol=1e-9,
    )


@pytest.mark.parametrize("name", VARIANTS)
def test_micro_batches_give_the_gradient_of_the_whole(tiny, name):
    batch = tiny.batch((4, 3, 5, 2), rewards=[1, 0, 0, 1, 0, 0, 0, 1, 1, 0, 1, 0, 1, 1])
    n = batch.num_response_tokens
    batch = tiny.replace(batch, importance=torch.rand(n, dtype=torch.float64) * 2)
    logp = (batch.logp_old + torch.randn(n, dtype=torch.float64)).requires_grad_()
    c = torch.rand(n, dtype=torch.float64) * 2
    objective = build(name, tau=0.7)
    totals = Totals(n, batch.num_sequences, 4, 99)

    scores = []
    for i in range(batch.num_sequences):
        at = torch.nonzero(batch.sequence_id == i)[:, 0]
        ratio = logp[at] - batch.logp_old[at]
        scores.append((c[at] * batch.importance[at] * ratio).sum() / len(at))
    score = torch.stack(scores)
    expected = literal(score, batch.reward == 1, batch.group_id, 0.7, VARIANTS[name])
    (expected_gradient,) = torch.autograd.grad(expected, logp)

    weights = objective.response_weights(score, batch.reward, batch.group_id, totals)
    value = objective.value(score, batch.reward, batch.group_id, totals)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
    weighted = tiny.replace(batch, response_weight=weights)
    loss = 0.0
    for part in torch.randperm(batch.num_sequences).split(5):
        micro, at = weighted.select(part)
        torch.testing.assert_close(objective.mean_log_ratio(logp[at], micro, c[at]), score[part])
        loss = loss + objective.loss(logp[at], micro, c[at], totals).loss
    (gradient,) = torch.autograd.grad(loss, logp)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-9)
    assert objective.active(batch, c).all()
    assert torch.equal(objective.active(weighted, c), weights != 0)
    assert not objective.active(weighted, torch.zeros_like(c)).any()
    assert objective.active(batch, torch.full_like(c, torch.nan)).all()


def test_weights_are_the_closed_form_monotone_and_bounded(seed):
    tau = 0.2 + random.random()
    objective = build("real", tau=tau)
    score, label, group = draw()
    totals = Totals(0, len(score), len(group.unique()), 1)
    weights = objective.response_weights(score, label.double(), group, totals) * totals.groups
    for i in range(len(score)):
        own = group == group[i]
        if label[own].all() or not label[own].any():
            assert weights[i] == 0
            continue
        same = own & (label == label[i])
        sign = -1 if label[i] else 1
        e = [math.exp(sign * float(s) / tau) for s in score[same]]
        expected = sign / tau * math.exp(sign * float(score[i]) / tau) / (1 + sum(e))
        assert float(weights[i]) == pytest.approx(expected, rel=1e-9)
        # A negative that scores higher is pushed down harder, a positive that scores lower up.
        for j in torch.nonzero(same)[:, 0].tolist():
            if score[j] > score[i]:
                assert weights[j] > weights[i]
    assert (weights.abs() < 1 / tau).all()


@pytest.mark.parametrize("name", VARIANTS)
def test_bounded_at_any_score(seed, name):
    tau = 0.5
    score = torch.tensor([300.0, -300, 0, 300, -300]).double()
    label = torch.tensor([1.0, 0, 1, 0, 1]).double()
    weights = build(name, tau=tau).response_weights(
        score, label, torch.zeros(5).long(), Totals(0, 5, 1, 1)
    )
    assert weights.isfinite().all() and (weights.abs() <= 1 / tau).all()
    assert ((weights > 0) <= (label == 0)).all() and ((weights < 0) <= (label == 1)).all()


def test_which_responses_are_positive(seed):
    reward = torch.tensor([0.2, 0.9, 0.9, 1.0, 0.4, 0.4])
    group = torch.tensor([5, 5, 5, 2, 2, 9])
    assert build("real").label(reward, group).tolist() == [False] * 3 + [True, False, False]
    assert build("real_bce").label(reward, group).tolist() == [
        False, True, True, True, False, True
    ]  # fmt: skip
    own = build("real_product", positive_threshold=0.4)
    assert own.label(reward, group).tolist() == [False] + [True] * 5


@pytest.mark.parametrize("name", VARIANTS)
def test_at_score_zero_the_weights_show_who_takes_part(seed, name):
    _, label, group = draw()
    zero = torch.zeros(len(label))
    objective = build(name, positive_threshold=1.0)
    totals = Totals(0, len(label), 6, 1)
    weights = objective.response_weights(zero, label.float(), group, totals)
    for i in range(len(label)):
        own = label[group == group[i]]
        assert bool(weights[i] != 0) == bool(own.any() and not own.all())


@pytest.mark.parametrize("name", VARIANTS)
def test_half_precision_one_token_responses_and_no_spread(tiny, name):
    batch = tiny.batch((3, 2), lengths=[1, 1, 3, 1, 1], rewards=[1, 0, 0, 1, 1])
    objective = build(name)
    totals = Totals(7, 5, 2, 9)
    logp = batch.logp_old.bfloat16().requires_grad_()
    c = torch.ones(batch.num_response_tokens)
    for reward in (batch.reward, torch.zeros(5), torch.ones(5)):
        score = objective.mean_log_ratio(logp.detach(), batch, c)
        weights = objective.response_weights(score, reward, batch.group_id, totals)
        assert score.dtype == weights.dtype == torch.float32 and weights.isfinite().all()
        assert bool((weights != 0).any()) == bool(reward.min() != reward.max())
        value = objective.value(score, reward, batch.group_id, totals)
        assert value.isfinite() and bool(value > 0) == bool(reward.min() != reward.max())
        loss = objective.loss(logp, tiny.replace(batch, response_weight=weights), c, totals).loss
        assert torch.autograd.grad(loss, logp)[0].isfinite().all()


def test_unknown_variant():
    with pytest.raises(ValueError, match="softmax, bce or product"):
        real_loss(
            torch.zeros(2), torch.tensor([True, False]), torch.zeros(2).long(), variant="hinge"
        )
