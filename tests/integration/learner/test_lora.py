"""The sharded update of adapters against PEFT's own on one process, by the literal formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from rlvr.config import RunConfig
from rlvr.learner.lora import add_adapters
from rlvr.types import Group
from tests.integration.learner.literal import logp_of

TEMPERATURE, BETA = 0.8, 0.3
LR = 0.3
GROUPS, SIZE, PER_MINI_BATCH, EPOCHS = 6, 4, 3, 2
RANK, ALPHA, SEED = 4, 12.0, 5
# (ranks, ZeRO stage, tokens of a micro-batch, ranks that share sequences)
SHAPES = [(1, 0, 10_000, 1), *((2, z, 60, 1) for z in range(4)), (2, 3, 60, 2)]
ROUNDED = [(2, 2, 60, 1), (2, 3, 60, 1)]  # with bfloat16 too


def configuration(folder: str, shape: tuple[int, int, int, int], dtype: str) -> RunConfig:
    config = RunConfig()
    config.model.path, config.model.dtype = folder, dtype
    config.cluster.gpus_per_node = 0
    config.train.seed, config.train.epochs_per_step = SEED, EPOCHS
    learner = config.learner
    learner.ranks, learner.zero_stage, budget, learner.sequence_parallel = shape
    learner.lora.rank, learner.lora.alpha = RANK, ALPHA
    learner.optimizer, learner.lr, learner.max_grad_norm = "sgd", LR, 0.0
    learner.tokens_per_micro_batch, learner.tokens_per_scoring_batch = budget, 2 * budget
    config.rollout.temperature = TEMPERATURE
    config.objective = {"name": "grpo", "kl_coefficient": BETA}
    return config


def literal(folder: str, groups: list[Group], advantages: np.ndarray):
    """float64 and one response at a time: A and B by name, and the weights with them merged."""
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    start = {k: v.detach().double() for k, v in plain.named_parameters()}
    add_adapters(plain, configuration(folder, SHAPES[0], "float32").learner.lora, SEED)
    drawn = {k: v.detach().double() for k, v in plain.named_parameters() if "lora_" in k}
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    model = get_peft_model(
        network,
        LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", lora_dropout=0.0),
        autocast_adapter_dtype=False,
    )
    adapters = {k: v for k, v in network.named_parameters() if v.requires_grad}
    assert adapters.keys() == drawn.keys() and len(adapters) == 2 * 7 * 2
    with torch.no_grad():
        for name, p in adapters.items():
            p.copy_(drawn[name])
    optimizer = torch.optim.SGD(adapters.values(), lr=LR)
    before: dict[tuple[int, int], torch.Tensor] = {}
    every = [(g, i) for g in range(GROUPS) for i in range(SIZE)]
    with torch.no_grad():
        for g, i in every:
            before[g, i] = logp_of(model, groups[g], groups[g].samples[i].response, TEMPERATURE)
    nearest_kink = 1.0
    for _ in range(EPOCHS):
        for first in range(0, GROUPS, PER_MINI_BATCH):
            total = 0.0
            for g, i in every[first * SIZE : (first + PER_MINI_BATCH) * SIZE]:
                response, advantage = groups[g].samples[i].response, advantages[g * SIZE + i]
                logp = logp_of(model, groups[g], response, TEMPERATURE)
                ratio = torch.exp(logp - before[g, i])  # B was 0: that is the reference as well
                clipped = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
                x = before[g, i] - logp
                term = -clipped + BETA * (x.exp() - x - 1)
                total = total + term.mean() / (PER_MINI_BATCH * SIZE)
                kinks = (ratio.detach()[:, None] - torch.tensor([0.8, 1.2])).abs().min()
                nearest_kink = min(nearest_kink, float(kinks))
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
    end = {k: v.detach().clone() for k, v in adapters.items()}
    whole = model.merge_and_unload()
    merged = {k: v.detach() for k, v in whole.named_parameters()}
    return {"drawn": drawn, "end": end, "start": start, "merged": merged}, nearest_kink


@pytest.fixture(scope="module")
def runs(module_seed, tiny_model, run_ranks, draw_groups):
    folder = tiny_model(True)
    generator = np.random.default_rng(module_seed)
    kink = 0.0
    while kink < 1e-4:  # where the gradient jumps, fp32 and float64 may rightly differ
        rewards = [[1, 0, *generator.integers(0, 2, SIZE - 2)] for _ in range(GROUPS - 1)]
        groups, advantages = draw_groups(generator, [*rewards, [0] * SIZE])
        expected, kink = literal(folder, groups, advantages)
    cases: dict[int, dict] = {1: {}, 2: {}}
    for shape in SHAPES:
        for dtype in ("float32", "bfloat16") if shape in ROUNDED else ("float32",):
            config = configuration(folder, shape, dtype)
            cases[shape[0]][*shape, dtype] = config, groups, advantages, PER_MINI_BATCH, None
    return expected, {**run_ranks(1, cases[1])[0], **run_ranks(2, cases[2])[0]}


def error(actual: dict, expected: dict, start: dict) -> tuple[float, float]:
    """How far ``expected`` is from ``start``, and what share of this ``actual`` is off."""
    assert actual.keys() == expected.keys()
    moved = sum(float((expected[k] - start[k]).square().sum()) for k in expected) ** 0.5
    off = sum(float((actual[k].double() - expected[k]).square().sum()) for k in expected) ** 0.5
    return moved, off / moved


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_adapters_move_as_the_literal_formula_says(runs, shape):
    expected, results = runs
    result = results[*shape, "float32"]
    for matrix in ("lora_A", "lora_B"):
        actual, end, drawn = (
            {k: v for k, v in tensors.items() if matrix in k}
            for tensors in (result["trained"], expected["end"], expected["drawn"])
        )
        moved, off = error(actual, end, drawn)
        assert moved > 1e-3 and off < 1e-5, (matrix, moved, off)
    moved, off = error(result["weights"], expected["merged"], expected["start"])
    assert moved > 1e-3 and off < 1e-5, (moved, off)
    frozen = [k for k in expected["start"] if "_proj" not in k]
    assert all(torch.equal(result["weights"][k].double(), expected["start"][k]) for k in frozen)
    assert len(expected["start"]) - len(frozen) == 2 * 7
    assert result["metrics"]["policy/kl_reference"].value > 0


@pytest.mark.parametrize("shape", ROUNDED, ids=str)
def test_bfloat16_moves_as_far_as_its_rounding_lets_it(runs, shape):
    """PEFT in bfloat16 on one process is 13 to 17 % off its own in float64, with such numbers."""
    expected, results = runs
    result = results[*shape, "bfloat16"]
    assert {w.dtype for w in result["weights"].values()} == {torch.bfloat16}
    moved, off = error(result["trained"], expected["end"], expected["drawn"])
    assert off < 0.3, off
