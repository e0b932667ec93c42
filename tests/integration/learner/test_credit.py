"""Credit through the real learner: the same coefficients whatever the ranks and the packing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from rlvr.config import RunConfig
from rlvr.explain.methods import explained
from rlvr.learner.policy import load_policy
from rlvr.types import IN_USE, CreditInputs

GROUPS, SIZE = 5, 4
METHODS = {
    "delta": {},
    "delta_topk": {"name": "delta", "proxy": "topk_hidden", "refinements": 2},
    "thr": {"p": 0.1},
    "nthr": {},
    "oar_p": {},
    "oar_g": {},
    "entropy_top": {},
    "random": {},
}
# OAR-G's scores are second differences, stretched to [0, 1] by their range: so is the rounding.
TOLERANCE = {"oar_g": 3e-5}
SHAPES = [(1, 0, 1), (2, 2, 1), (2, 3, 1), (2, 3, 2)]  # ranks, ZeRO, ranks that share sequences


def configuration(
    folder: str, shape: tuple[int, int, int], budget: int, method: str, store: str
) -> RunConfig:
    config = RunConfig()
    config.model.path, config.model.dtype = folder, "float32"
    config.cluster.gpus_per_node = 0
    learner = config.learner
    learner.ranks, learner.zero_stage, learner.sequence_parallel = shape
    learner.features = "device" if store == "adapters" else store
    learner.lora.rank = 2 if store == "adapters" else 0  # they are new, so they add nothing
    learner.optimizer, learner.lr = "sgd", 0.05
    learner.tokens_per_micro_batch = learner.tokens_per_scoring_batch = budget
    learner.logits_mib = 1
    config.rollout.temperature = 0.8
    config.objective = {"name": "dapo"}
    config.credit = {"name": method} | METHODS[method]
    return config


@pytest.fixture(scope="module")
def results(module_seed, tiny_model, run_ranks, draw_groups):
    generator = np.random.default_rng(module_seed)
    rewards = [[1, g != 1, 0, 0] for g in range(GROUPS - 1)]  # of the second group one is correct
    groups, advantages = draw_groups(generator, [*rewards, [0] * SIZE], shortest=3)
    lengths = [len(s.response.token_ids) for g in groups for s in g.samples]
    span = np.array([[n - 2, n - 1] for n in lengths])
    span[3] = -1  # a response without an answer
    inputs = CreditInputs(parts={IN_USE: CreditInputs({"answer_span": torch.from_numpy(span)})})
    cases: dict[int, dict] = {1: {}, 2: {}}
    for shape in SHAPES:
        for method in METHODS:
            stores = [(10_000, "device"), (60, "device"), (60, "recompute"), (60, "adapters")]
            for budget, store in stores:
                if store == "recompute" and not method.startswith(("delta", "thr")):
                    continue
                if store == "adapters" and shape != (2, 3, 1):
                    continue
                cases[shape[0]][*shape, method, budget, store] = (
                    configuration(tiny_model(True), shape, budget, method, store),
                    groups,
                    advantages,
                    GROUPS,
                    inputs,
                    False,
                )
    saved = [*run_ranks(1, cases[1]), *run_ranks(2, cases[2])]
    merged: dict = {}
    for rank in saved:
        for case, result in rank.items():
            ids = result["response_id"][result["sequence_id"]]
            for i in torch.unique(ids).tolist():
                merged.setdefault(case, {})[i] = result["coefficients"][ids == i]
    return groups, merged


@pytest.mark.parametrize("method", METHODS)
def test_coefficients_do_not_depend_on_ranks_stage_packing_or_store(results, method):
    groups, merged = results
    lengths = [len(s.response.token_ids) for g in groups for s in g.samples]
    reference = merged[1, 0, 1, method, 10_000, "device"]
    assert [len(reference[i]) for i in range(GROUPS * SIZE)] == lengths
    everything = torch.cat([reference[i] for i in range(GROUPS * SIZE)])
    assert torch.isfinite(everything).all() and (everything >= 0).all()
    if method not in ("random", "nthr"):  # random data may hold no token that NTHR damps
        assert everything.unique().numel() > 1
    others = [case for case in merged if case[3] == method]
    assert len(others) >= 8
    for case in others:
        actual = torch.cat([merged[case][i] for i in range(GROUPS * SIZE)])
        off = (actual - everything).norm() / everything.norm()
        assert float(off) < TOLERANCE.get(method, 1e-5), (case, float(off))


@pytest.mark.parametrize("method", ["delta", "thr", "nthr", "entropy_top"])
def test_an_explanation_says_the_same_without_deepspeed(results, tiny_model, method):
    groups, merged = results
    folder = tiny_model(True)
    config = configuration(folder, (1, 0, 1), 10_000, method, "device")
    device = torch.device("cpu")
    policy = load_policy(config.model, config.learner, config.rollout.temperature, device)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = explained(config, {method: config.credit}, policy, tokenizer, groups)
    for case in merged:
        if case[3] == method:
            for i, own in enumerate(found.coefficients[method]):
                assert own == pytest.approx(merged[case][i].numpy(), rel=1e-4, abs=1e-4), case


@pytest.mark.parametrize("method", ["delta", "delta_topk", "random"])
def test_normalised_coefficients_sum_to_the_number_of_tokens(results, method):
    _, merged = results
    for case, coefficients in merged.items():
        if case[3] == method:
            every = torch.cat(list(coefficients.values()))
            assert float(every.sum()) == pytest.approx(len(every), rel=1e-5)
