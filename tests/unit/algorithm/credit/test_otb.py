"""The optimal token baseline against its formula, position by position."""

from __future__ import annotations

import random

import pytest
import torch

from rlvr.algorithm.credit import CREDITS
from rlvr.algorithm.credit.otb import energies


def literal(features, batch, zero_tail):
    """G_i − B_t of every token, from the whole distributions."""
    n = batch.num_response_tokens
    energy = []
    for t in range(n):
        g = -features.probability[t].clone()
        g[batch.target[t]] += 1
        energy.append(float(g @ g))
    owner = batch.sequence_id.tolist()
    tokens = [[t for t in range(n) if owner[t] == i] for i in range(len(batch.reward))]
    result = [0.0] * n
    for g in batch.group_id.unique():
        members = [i for i in range(len(batch.reward)) if batch.group_id[i] == g]
        for i in members:
            for t in range(len(tokens[i])):
                reach = [j for j in members if len(tokens[j]) > t]
                w = {j: sum(energy[u] for u in tokens[j][: t + 1]) for j in reach}
                b = sum(float(batch.reward[j]) * w[j] for j in reach) / (sum(w.values()) + 1e-8)
                if len(members) == 1 or (zero_tail and len(reach) == 1):
                    b = 0.0
                result[tokens[i][t]] = float(batch.reward[i]) - b
    return torch.tensor(result, dtype=torch.float64)


@pytest.mark.parametrize("zero_tail", [False, True])
@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("size", [1, 3])
def test_advantage_is_reward_less_the_baseline(tiny, zero_tail, unit, size):
    policy = tiny.Policy()
    batch = tiny.batch((4, 5, 1, 3))
    batch = tiny.replace(batch, reward=batch.reward + 0.1 * torch.rand_like(batch.reward))
    if unit:
        batch = tiny.replace(batch, advantage=torch.ones_like(batch.advantage))
    temperature = random.uniform(0.6, 1.4)
    expected = literal(tiny.Features(batch, policy, temperature), batch, zero_tail)
    method = CREDITS.build({"name": "otb", "zero_tail": zero_tail}, "credit")
    owners = [random.randrange(size) for _ in range(batch.num_sequences)]
    c, _ = tiny.assign_on_ranks(method, batch, policy, owners, size, temperature=temperature)
    a = batch.token_advantage
    torch.testing.assert_close((a * c)[a != 0], expected[a != 0], rtol=1e-9, atol=1e-9)
    assert (c[a == 0] == 1).all()
    assert (c < 0).any() or not unit


def test_energies_of_a_sure_policy_keep_their_digits(tiny):
    """Its own most probable tokens in float32: 1 − 2π + Σπ² would be rounding, below 0 too."""
    policy, batch = tiny.Policy(dtype=torch.float32), tiny.batch((3,), lengths=[6, 6, 6])
    with torch.no_grad():
        policy.weight *= 8
    for _ in range(6):  # the token at a place decides about those after it
        features = tiny.Features(batch, policy)
        batch.input_ids[batch.token_index] = features.probability.argmax(-1)
    features = tiny.Features(batch, policy)
    logits = features.states.double() @ policy.weight.detach().double().T
    p = logits.softmax(-1).scatter(1, batch.target[:, None], 0.0)
    expected = p.sum(1) ** 2 + (p**2).sum(1)
    assert float(expected.min()) < 1e-8
    torch.testing.assert_close(energies(batch, features), expected, rtol=1e-3, atol=0)


def test_equal_rewards_leave_nothing(tiny):
    batch = tiny.batch((4,), rewards=[1.0] * 4, lengths=[5, 5, 3, 5])
    batch = tiny.replace(batch, advantage=torch.ones_like(batch.advantage))
    c = tiny.assign(CREDITS.build({"name": "otb"}, "credit"), batch, tiny.Policy()).coefficients
    torch.testing.assert_close(c, torch.zeros_like(c), rtol=0, atol=1e-6)


def test_what_was_not_scored_counts_nowhere(tiny):
    """As if it were not there."""
    policy, batch = tiny.Policy(), tiny.batch((5, 4))
    batch.advantage[1] = 0
    method = CREDITS.build({"name": "otb"}, "credit")
    scored = batch.sequence_id != 1
    c = tiny.assign(method, batch, policy, scored=scored).coefficients
    left, n = batch.select(torch.tensor([0, *range(2, 9)]))
    torch.testing.assert_close(c[n], tiny.assign(method, left, policy).coefficients)
