"""Shadows through the real learner: an update is bit for bit what it is without them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rlvr.config import RunConfig
from rlvr.types import IN_USE, CreditInputs

METHODS = ["uniform", "delta"]
SHADOWS = [*METHODS, "random", "entropy_top", "thr", "oar_g"]


@pytest.fixture(scope="module")
def results(module_seed, tiny_model, run_ranks, draw_groups):
    generator = np.random.default_rng(module_seed)
    groups, advantages = draw_groups(generator, [[1, 0, 0], [0, 0, 0], [1, 1, 0], [1, 0]], 3)
    lengths = np.array([len(s.response.token_ids) for g in groups for s in g.samples])
    span = CreditInputs({"answer_span": torch.from_numpy(np.stack([lengths - 1, lengths], 1))})
    inputs = CreditInputs(parts={IN_USE: span, "oar_g": span})
    cases = {}
    for method in METHODS:
        for shadows in ([], SHADOWS):
            config = RunConfig()
            config.model.path, config.model.dtype = tiny_model(True), "float32"
            config.cluster.gpus_per_node = 0
            learner = config.learner
            learner.ranks, learner.zero_stage = 2, 3
            learner.features = "recompute" if method == "delta" else "auto"
            learner.tokens_per_micro_batch = learner.tokens_per_scoring_batch = 60
            learner.lr, learner.logits_mib = 1e-3, 1
            config.objective, config.credit = {"name": "dapo"}, {"name": method}
            config.shadow.credits = shadows
            config.train.steps = 1
            cases[method, bool(shadows)] = config, groups, advantages, 2, inputs
    return run_ranks(2, cases)


@pytest.mark.parametrize("method", METHODS)
def test_weights_and_metrics_are_the_same(results, method):
    for rank in results:
        alone, beside = rank[method, False], rank[method, True]
        assert torch.equal(alone["coefficients"], beside["coefficients"])
        for name, weight in alone["weights"].items():
            assert torch.equal(weight, beside["weights"][name]), name
        assert any(name.startswith("shadow/thr/") for name in beside["metrics"])
        for name, metric in alone["metrics"].items():
            told = name in ("score/tokens", "credit/assign_s")  # which are others' too, or a time
            assert beside["metrics"][name] == metric or told, name
