"""The sharded, packed, portioned update against autograd of the literal formula."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from rlvr.config import RunConfig
from rlvr.types import Group
from tests.integration.learner.literal import logp_of

TEMPERATURE = 0.8
LR = 0.2  # large enough that rounding the weights to fp32 is small beside the steps
GROUPS, SIZE, PER_MINI_BATCH = 6, 4, 3
# (ranks, ZeRO stage, tokens of a micro-batch, ranks that share sequences): all at once, and in
# portions
SHAPES = [
    *((1, 0, 10_000, 1), (2, 3, 10_000, 1), (1, 0, 60, 1), *((2, z, 60, 1) for z in range(4))),
    *((2, 3, 10_000, 2), (2, 0, 60, 2), (2, 2, 60, 2), (2, 3, 60, 2)),
]


def dapo(ratio, advantage):
    surrogate = -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.28) * advantage)
    return surrogate.clamp(max=-10 * advantage) if advantage < 0 else surrogate


def grpo(ratio, advantage):
    return -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)


def literal(folder: str, objective: str, groups: list[Group], advantages: np.ndarray, epochs: int):
    """float64, one response at a time, no packing: plain SGD on the formula of METHODS."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    start = {k: v.detach().clone() for k, v in model.named_parameters()}
    old = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    nearest_kink = 1.0
    for _ in range(epochs):
        for first in range(0, GROUPS, PER_MINI_BATCH):
            chosen = [(g, i) for g in range(first, first + PER_MINI_BATCH) for i in range(SIZE)]
            total = 0.0
            tokens = sum(len(groups[g].samples[i].response.token_ids) for g, i in chosen)
            for g, i in chosen:
                response, advantage = groups[g].samples[i].response, advantages[g * SIZE + i]
                with torch.no_grad():
                    logp_old = logp_of(old, groups[g], response, TEMPERATURE)
                ratio = torch.exp(logp_of(model, groups[g], response, TEMPERATURE) - logp_old)
                kinks = torch.tensor([0.8, 1.2, 1.28, 10.0])
                gap = (ratio.detach()[:, None] - kinks).abs().min()
                nearest_kink = min(nearest_kink, float(gap))
                if objective == "dapo":
                    total = total + dapo(ratio, advantage).sum() / tokens
                else:
                    total = total + grpo(ratio, advantage).mean() / len(chosen)
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
    end = {k: v.detach() for k, v in model.named_parameters()}
    return start, end, nearest_kink


def configuration(folder: str, shape: tuple[int, int, int, int], objective: str, epochs: int):
    config = RunConfig()
    config.model.path, config.model.dtype = folder, "float32"
    config.cluster.gpus_per_node = 0
    learner = config.learner
    learner.ranks, learner.zero_stage, budget, learner.sequence_parallel = shape
    learner.optimizer, learner.lr, learner.max_grad_norm = "sgd", LR, 0.0
    learner.tokens_per_micro_batch, learner.tokens_per_scoring_batch = budget, 2 * budget
    learner.logits_mib = 1
    config.rollout.temperature = TEMPERATURE
    config.objective = {"name": objective}
    config.train.epochs_per_step = epochs
    return config


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def runs(request, module_seed, tiny_model, run_ranks, draw_groups):
    """Every case on 1 and on 2 ranks, and what the literal formula gives."""
    folder = tiny_model(request.param)
    generator = np.random.default_rng(module_seed)
    kink = 0.0
    while kink < 1e-4:  # where the gradient jumps, fp32 and float64 may rightly differ
        rewards = [[1, 0, *generator.integers(0, 2, SIZE - 2)] for _ in range(GROUPS - 1)]
        groups, advantages = draw_groups(generator, [*rewards, [0] * SIZE])
        literals = {
            (objective, epochs): literal(folder, objective, groups, advantages, epochs)
            for objective, epochs in (("dapo", 1), ("grpo", 2))
        }
        kink = min(nearest for _, _, nearest in literals.values())
    cases: dict[int, dict] = {1: {}, 2: {}}
    for shape in SHAPES:
        for objective, epochs in literals:
            cases[shape[0]][*shape, objective, epochs] = (
                configuration(folder, shape, objective, epochs),
                groups,
                advantages,
                PER_MINI_BATCH,
                None,
            )
    results = {**run_ranks(1, cases[1])[0], **run_ranks(2, cases[2])[0]}
    return literals, results


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("objective", "epochs"), [("dapo", 1), ("grpo", 2)])
def test_update_equals_the_literal_formula(runs, shape, objective, epochs):
    literals, results = runs
    start, expected, _ = literals[objective, epochs]
    actual = results[*shape, objective, epochs]["weights"]
    assert set(actual) == set(expected)
    moved = sum(float((expected[k] - start[k]).square().sum()) for k in start) ** 0.5
    off = sum(float((actual[k].double() - expected[k]).square().sum()) for k in start) ** 0.5
    assert moved > 1e-3
    assert off / moved < 1e-5, off / moved


def test_no_forward_that_a_kept_value_replaces(runs):
    """Without features the first mini-batch is not scored, the second one is."""
    _, results = runs
    scored = results[1, 0, 10_000, 1, "dapo", 1]["metrics"]["score/tokens"].total
    sequence_id = results[1, 0, 10_000, 1, "dapo", 1]["sequence_id"]
    second = int((sequence_id >= PER_MINI_BATCH * SIZE).sum())
    without_spread = int((sequence_id >= (GROUPS - 1) * SIZE).sum())
    assert scored == second - without_spread
