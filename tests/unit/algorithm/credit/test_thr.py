"""THR and NTHR against the double sum over token pairs, with the full vocabulary."""

from __future__ import annotations

import random

import pytest
import torch

from rlvr.algorithm.credit import CREDITS, SoloRanks
from rlvr.algorithm.credit.thr import nthr_coefficients, thr_coefficients, thr_scores


def double_sum(hidden, error, correct, group):
    """s_{i,t} = Σ_j Σ_t' ⟨g, g⟩⟨h, h⟩ over the tokens of the group's correct responses."""
    result = []
    for t in range(len(hidden)):
        s = 0.0
        for u in range(len(hidden)):
            if group[u] == group[t] and correct[u]:
                s += float(error[u] @ error[t]) * float(hidden[u] @ hidden[t])
        result.append(s if correct[t] else -s)
    return torch.tensor(result, dtype=torch.float64)


def coefficients(thr, sequence, correct, group, p=0.1, beta=1.0, mask_small=True, nthr=False):
    """The thresholds and weights of the definition, group by group."""
    c = [1.0] * len(thr)
    thr = thr.tolist()
    score = [x if ok else -x for x, ok in zip(thr, correct.tolist(), strict=True)]
    for g in set(group.tolist()):
        members = [t for t in range(len(thr)) if group[t] == g]
        right = {int(sequence[t]) for t in members if correct[t]}
        wrong = {int(sequence[t]) for t in members if not correct[t]}
        if not right or not wrong:
            continue
        means = []
        for i in right:
            own = [score[t] if nthr else abs(score[t]) for t in members if sequence[t] == i]
            means.append(sum(own) / len(own))
        tau = beta * min(means)
        for t in members:
            if nthr:
                q = len(right) / (len(right) + len(wrong))
                if not correct[t] and score[t] > tau:
                    c[t] = 2 * abs(0.5 - q)
            elif abs(thr[t]) > tau:
                c[t] = 1 + p * (thr[t] > 0) - p * (thr[t] < 0)
            else:
                c[t] = 0.0 if mask_small else 1.0
    return torch.tensor(c, dtype=torch.float64)


def draw():
    """(hidden, error, sequence, correct, group) per token, one group without a correct one."""
    sequence, correct, group = [], [], []
    for i in range(12):
        length = random.randint(1, 5)
        g = i // 4
        ok = g < 2 and (i % 4 == 0 or (i % 4 > 1 and random.random() < 0.4))
        sequence += [i] * length
        correct += [ok] * length
        group += [77 * g] * length
    n = len(sequence)
    hidden = torch.randn(n, 6, dtype=torch.float64)
    error = -torch.randn(n, 9, dtype=torch.float64).softmax(-1)
    error[torch.arange(n), torch.randint(0, 9, (n,))] += 1
    return hidden, error, torch.tensor(sequence), torch.tensor(correct), torch.tensor(group)


def test_scores_equal_the_double_sum(seed):
    hidden, error, _, correct, group = draw()
    expected = double_sum(hidden, error, correct, group)
    torch.testing.assert_close(
        thr_scores(hidden, error, correct, group), expected, rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("p", [0.1, -0.1, 0.0])
@pytest.mark.parametrize("beta", [1.0, 0.3])
@pytest.mark.parametrize("mask_small", [True, False])
def test_coefficients_equal_the_definition(seed, p, beta, mask_small):
    hidden, error, sequence, correct, group = draw()
    thr = thr_scores(hidden, error, correct, group)
    options = {"p": p, "beta": beta, "mask_small": mask_small}
    c = thr_coefficients(thr, sequence, correct, group, **options)
    expected = coefficients(thr, sequence, correct, group, **options)
    torch.testing.assert_close(c, expected, rtol=1e-9, atol=1e-9)


def test_nthr_equals_the_definition(seed):
    hidden, error, sequence, correct, group = draw()
    thr = thr_scores(hidden, error, correct, group)
    c = nthr_coefficients(thr, sequence, correct, group, beta=0.2)
    expected = coefficients(thr, sequence, correct, group, beta=0.2, nthr=True)
    torch.testing.assert_close(c, expected, rtol=1e-9, atol=1e-9)
    assert (c[correct] == 1).all()


@pytest.mark.parametrize("eta", ["distance", "share", "complement", "zero"])
@pytest.mark.parametrize("beta", [0.2, None])
def test_ablations_of_nthr(seed, eta, beta):
    hidden, error, sequence, correct, group = draw()
    thr = thr_scores(hidden, error, correct, group)
    plain = nthr_coefficients(thr, sequence, correct, group, beta=0.2)
    c = nthr_coefficients(thr, sequence, correct, group, beta=beta, eta=eta)
    positives = nthr_coefficients(
        thr, sequence, correct, group, beta=beta, eta=eta, positives_only=True
    )
    for g in group.unique():
        member = group == g
        right = len(sequence[member & correct].unique())
        q = right / len(sequence[member].unique())
        wrong = member & ~correct
        if q in (0, 1):
            assert (c[member] == 1).all() and (positives[member] == 1).all()
            continue
        value = {"distance": 2 * abs(0.5 - q), "share": q, "complement": 1 - q, "zero": 0.0}[eta]
        damped = wrong if beta is None else wrong & (plain != 1)
        expected = torch.ones_like(c)
        expected[damped] = value
        torch.testing.assert_close(c[member], expected[member], rtol=1e-9, atol=1e-9)
        assert (positives[wrong] == 0).all()
        assert torch.equal(positives[member & correct], c[member & correct])


def test_without_a_threshold_every_token_is_dominant(seed):
    hidden, error, sequence, correct, group = draw()
    thr = thr_scores(hidden, error, correct, group)
    c = thr_coefficients(thr, sequence, correct, group, p=0.3, beta=None)
    both = torch.tensor([0 < correct[group == g].float().mean() < 1 for g in group])
    torch.testing.assert_close(c[both], (1 + 0.3 * thr.sign())[both])


def test_without_push_and_threshold_it_is_uniform(seed):
    hidden, error, sequence, correct, group = draw()
    thr = thr_scores(hidden, error, correct, group)
    assert (thr_coefficients(thr, sequence, correct, group, p=0.0, beta=0.0) == 1).all()


def test_sign_is_the_effect_of_a_step_on_lm_head(tiny):
    """A step on one token's policy-gradient term moves the correct responses' likelihood."""
    policy, batch = tiny.Policy(), tiny.batch((4,), rewards=[1, 0, 1, 0])
    features = tiny.Features(batch, policy)
    y = batch.target
    error = torch.eye(13).double()[y] - features.probability
    correct = batch.correct[batch.sequence_id]
    thr = thr_scores(features.states, error, correct, batch.group_id[batch.sequence_id])

    def likelihood(weight):
        log_p = (features.states @ weight.T).log_softmax(-1)
        return log_p[torch.arange(len(y)), y][correct].sum()

    step = 1e-6
    for t in range(len(y)):
        weight = policy.weight.detach().clone().requires_grad_()
        log_p = (weight @ features.states[t]).log_softmax(-1)[y[t]]
        term = log_p * (1 if correct[t] else -1)  # raise a correct response, lower a wrong one
        moved = weight.detach() + step * torch.autograd.grad(term, weight)[0]
        change = float(likelihood(moved) - likelihood(weight.detach()))
        assert change == pytest.approx(step * float(thr[t]), rel=1e-3, abs=1e-10)


def build(name="thr", **options):
    return CREDITS.build({"name": name, **options}, "credit")


def expected_from(tiny, batch, policy, temperature=1.0, nthr=False, weight="score", **options):
    """With g restricted to the token ids of the group's responses, not renormalised."""
    features = tiny.Features(batch, policy, temperature)
    y = batch.target
    correct, group = batch.correct[batch.sequence_id], batch.group_id[batch.sequence_id]
    error = torch.eye(13).double()[y] - features.probability
    for g in group.unique():
        seen = set(y[group == g].tolist())
        for j in range(13):
            if j not in seen:
                error[group == g, j] = 0
    thr = double_sum(features.states, error, correct, group)
    if weight == "advantage":
        thr = thr * batch.token_advantage.abs()
    return coefficients(thr, batch.sequence_id, correct, group, nthr=nthr, **options)


@pytest.mark.parametrize(
    "options", [{}, {"p": -0.2, "beta": 0.5}, {"mask_small": False}, {"weight": "advantage"}]
)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_streamed_equals_the_definition(tiny, options, temperature):
    policy, batch = tiny.Policy(), tiny.batch((4, 3, 2, 3))
    batch.correct[batch.group_id == 100] = True  # a group without spread
    scored = (batch.group_id != 100)[batch.sequence_id]
    method = build(**options)
    credit = tiny.assign(method, batch, policy, temperature=temperature, scored=scored)
    expected = expected_from(tiny, batch, policy, temperature, **options)
    torch.testing.assert_close(credit.coefficients, expected, rtol=1e-9, atol=1e-9)
    assert 0 <= credit.metrics["dominant_share"] <= 1
    method.memory_mib = 0  # one group a wave
    again = tiny.assign(method, batch, policy, temperature=temperature, scored=scored)
    torch.testing.assert_close(again.coefficients, expected, rtol=1e-9, atol=1e-9)


def test_streamed_nthr_equals_the_definition(tiny):
    policy, batch = tiny.Policy(), tiny.batch((4, 3, 5))
    credit = tiny.assign(build("nthr", beta=0.3), batch, policy)
    expected = expected_from(tiny, batch, policy, nthr=True, beta=0.3)
    torch.testing.assert_close(credit.coefficients, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["thr", "nthr"])
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("memory_mib", [2048, 0])
def test_groups_may_be_spread_over_ranks(tiny, name, size, memory_mib):
    policy, batch = tiny.Policy(), tiny.batch((4, 3, 5))
    whole = tiny.assign(build(name), batch, policy)
    # The second group stays on rank 0, the others are torn apart; the last rank may be empty.
    owners = [random.randrange(max(size - 1, 2)) for _ in range(batch.num_sequences)]
    owners[4:7] = [0, 0, 0]
    method = build(name)
    method.memory_mib = memory_mib
    coefficients, credits = tiny.assign_on_ranks(method, batch, policy, owners, size)
    torch.testing.assert_close(coefficients, whole.coefficients, rtol=1e-9, atol=1e-9)
    assert credits[0].metrics == pytest.approx(whole.metrics, rel=1e-6)


@pytest.mark.parametrize("name", ["thr", "nthr"])
def test_groups_without_both_kinds_cost_nothing(tiny, name):
    policy, batch = tiny.Policy(), tiny.batch((3, 3), rewards=[1, 1, 1, 0, 0, 0])
    features = tiny.Features(batch, policy)
    credit = build(name).assign(batch, features, SoloRanks())
    assert (credit.coefficients == 1).all() and features.streams == 0


@pytest.mark.parametrize("name", ["thr", "nthr"])
def test_half_precision_and_one_token_responses(tiny, name):
    policy = tiny.Policy(dtype=torch.bfloat16)
    batch = tiny.batch((4, 2), rewards=[1, 0, 0, 0, 1, 0], lengths=[1, 1, 3, 2, 1, 1])
    credit = tiny.assign(
        build(name), tiny.replace(batch, advantage=batch.advantage.float()), policy
    )
    assert credit.coefficients.dtype == torch.float32
    assert credit.coefficients.isfinite().all() and (credit.coefficients >= 0).all()
