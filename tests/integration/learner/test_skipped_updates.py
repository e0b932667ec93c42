"""An update whose loss or gradient is not finite leaves no trace."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rlvr.config import RunConfig

# ranks, ZeRO stage, dtype, offload, ranks that share sequences
SHAPES = [
    (1, 0, "float32", "none", 1),
    (2, 0, "float32", "none", 2),
    (2, 1, "float32", "none", 1),
    (2, 1, "float32", "always", 1),
    (2, 2, "bfloat16", "none", 1),
    (2, 2, "bfloat16", "always", 1),
    (2, 3, "float32", "none", 1),
    (2, 3, "bfloat16", "none", 2),
    (2, 3, "bfloat16", "always", 1),
]


def configuration(folder: str, shape) -> RunConfig:
    config = RunConfig()
    config.model.path, config.cluster.gpus_per_node = folder, 0
    learner = config.learner
    learner.ranks, learner.zero_stage, config.model.dtype, learner.offload, sharing = shape
    learner.sequence_parallel = sharing
    learner.tokens_per_micro_batch, learner.lr, learner.warmup_steps = 100, 1e-2, 6
    return config


@pytest.fixture(scope="module")
def runs(module_seed, tiny_model, run_ranks, draw_groups):
    generator = np.random.default_rng(module_seed)
    rewards = [[1, 0, 1, 0]] * 4
    good, bad = [draw_groups(generator, rewards) for _ in range(2)], draw_groups(generator, rewards)
    cases: dict[int, dict] = {1: {}, 2: {}}
    for shape in SHAPES:
        for spoiled in (False, True):
            config = configuration(tiny_model(True), shape)
            cases[shape[0]][shape, spoiled] = "skipped_updates", config, (good, bad), spoiled
    return {ranks: run_ranks(ranks, own) for ranks, own in cases.items()}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_skipped_update_leaves_no_trace(runs, shape):
    """Weights, moments and what the next updates report are bit for bit what they were without."""
    for own in runs[shape[0]]:
        expected, actual = own[shape, False], own[shape, True]
        assert [r["update/skipped"] for r in expected["reports"]] == [0, 0]
        assert [r["update/skipped"] for r in actual["reports"]] == [2, 2, 0, 2, 0]
        assert [r["update/skipped_in_a_row"] for r in actual["reports"]] == [2, 4, 0, 2, 0]
        assert [actual["reports"][i] for i in (2, 4)] == expected["reports"]
        assert expected["reports"][0]["update/grad_norm"] > 0
        assert expected["tensors"] and len(expected["tensors"]) == len(actual["tensors"])
        for a, b in zip(expected["tensors"], actual["tensors"], strict=True):
            assert a.isfinite().all() and torch.equal(a, b)
