"""What a sequence costs, against counts made one product at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3Config, Qwen3ForCausalLM

from rlvr.config import RunConfig
from rlvr.learner.batching import rank_batches
from rlvr.learner.cost import Flops, StepCost
from rlvr.types import Group, Outcome, Prompt, Response, Sample, Verdict

SHAPE = Flops(token=100.0, pair=3.0, response_token=7.0)


def groups_of(rewards, lengths, prompt=5):
    found = []
    for g, (own, sizes) in enumerate(zip(rewards, lengths, strict=True)):
        samples = []
        for reward, n in zip(own, sizes, strict=True):
            ids = np.ones(n, np.int32)
            response = Response(ids, -np.ones(n, np.float32), ids, "length" if n > 40 else "stop")
            outcome = Outcome.CORRECT if reward else Outcome.INCORRECT
            samples.append(Sample(response, "", Verdict(float(reward), outcome)))
        found.append(Group(Prompt(str(g), [1] * prompt, "", "", "exact"), samples))
    return found


def config_of(**nodes):
    config = RunConfig()
    for node, value in nodes.items():
        setattr(config, node, value)
    return config


@pytest.mark.parametrize("tied", [True, False])
def test_flops_of_a_model_are_those_that_torch_counts(tied):
    config = Qwen3Config(
        vocab_size=60,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=tied,
    )
    model = Qwen3ForCausalLM(config)
    model.config._attn_implementation = "eager"
    length = 40
    with FlopCounterMode(display=False) as counter:
        model(torch.ones(1, length, dtype=torch.long))
    flops = Flops.of_model(model)
    # eager attention computes the upper half too; norms are vectors that no product counts
    expected = length * (flops.token + flops.response_token) + length**2 * flops.pair
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.02)


def test_members_share_their_prompt_and_the_others_cost_nothing():
    groups = groups_of([[1, 0, 0], [1, 1, 1]], [[3, 4, 10], [2, 2, 2]])
    [batch] = rank_batches(groups, np.zeros(6), ranks=1, groups_per_mini_batch=2)
    members = torch.tensor([True, False, True, False, False, True])
    cost = SHAPE.of_sequences(batch, members)
    assert cost[~members].tolist() == [0, 0, 0]
    together = (5 + 3 + 10) * 100 + (12.5 + 3 * 6.5 + 10 * 10) * 3 + 13 * 7
    assert float(cost[[0, 2]].sum()) == pytest.approx(together)
    alone = (5 + 2) * 100 + (12.5 + 2 * 6) * 3 + 2 * 7
    assert float(cost[5]) == pytest.approx(alone)


@pytest.mark.parametrize("objective", ["grpo", "real", "real_bce"])
def test_groups_without_spread_cost_nothing(objective):
    groups = groups_of([[1, 0, 0], [1, 1, 1]], [[3, 4, 10], [2, 2, 2]])
    advantages = np.array([2.0, -1, -1, 0, 0, 0])
    [batch] = rank_batches(groups, advantages, ranks=1, groups_per_mini_batch=2)
    cost = StepCost(config_of(objective={"name": objective}), SHAPE)(batch)
    assert (cost[:3] > 0).all() and (cost[3:] == 0).all()
    regularised = config_of(objective={"name": objective})
    regularised.learner.entropy_bonus = 0.1
    assert (StepCost(regularised, SHAPE)(batch) > 0).all()


def test_what_is_filtered_costs_nothing():
    groups = groups_of([[1, 0, 0]], [[3, 50, 10]])
    [batch] = rank_batches(groups, np.ones(3), ranks=1, groups_per_mini_batch=1)
    config = RunConfig()
    config.train.overlong_filter = True
    assert (StepCost(config, SHAPE)(batch) == 0).tolist() == [False, True, False]


@pytest.mark.parametrize(("ranks", "most"), [(4, 1.05), (16, 1.1)])
def test_ranks_wait_little_at_sixty_percent_active_groups(ranks, most, seed):
    generator = np.random.default_rng(seed)
    count, size = 128, 8
    active = generator.random(count) < 0.6
    rewards = [[1, *[0] * (size - 1)] if a else [0] * size for a in active]
    lengths = [
        np.minimum(generator.lognormal(8.0, 0.7, size), 20_000).astype(int) + 1 for _ in rewards
    ]
    groups = groups_of(rewards, lengths, prompt=200)
    advantages = np.concatenate([np.full(size, float(a)) for a in active])
    # the shape of Qwen3-8B
    cost = StepCost(RunConfig(), Flops(1.4e10, 4.0 * 4096 * 36, 1.2e9))
    [whole] = rank_batches(groups, advantages, ranks=1, groups_per_mini_batch=count)
    each = cost(whole)
    batches = rank_batches(groups, advantages, ranks=ranks, groups_per_mini_batch=count, cost=cost)
    total = torch.stack([each[b.response_id].sum() for b in batches])
    assert float(total.max() / total.mean()) <= most, total / total.mean()
