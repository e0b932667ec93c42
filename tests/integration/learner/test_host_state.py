"""What goes to the host and comes back changes no update."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rlvr.config import RunConfig
from rlvr.types import Group, Outcome, Prompt, Response, Sample, Verdict

SHAPES = [(1, 0), (1, 1), (2, 2), (1, 3), (2, 3)]
OFFLOADS = ["none", "during_rollout"]


def groups(generator: np.random.Generator) -> list[Group]:
    made = []
    for g in range(4):
        prompt = Prompt(str(g), generator.integers(3, 128, 5).tolist(), "", "", "exact")
        samples = []
        for i in range(4):
            ids = generator.integers(3, 128, 12).astype(np.int32)
            response = Response(ids, np.zeros(12, np.float32), np.zeros(12, np.int32), "stop")
            samples.append(Sample(response, "", Verdict(float(i % 2), Outcome.CORRECT)))
        made.append(Group(prompt, samples))
    return made


def configuration(folder: str, ranks: int, stage: int, offload: str) -> RunConfig:
    config = RunConfig()
    config.model.path = folder
    config.model.dtype = "bfloat16" if stage else "float32"
    config.cluster.gpus_per_node = 0
    config.learner.ranks, config.learner.zero_stage = ranks, stage
    config.learner.lr, config.learner.offload = 1e-2, offload
    config.train.steps = 3
    return config


@pytest.fixture(scope="module")
def runs(module_seed, tiny_model, run_ranks):
    drawn = groups(np.random.default_rng(module_seed))
    advantages = np.tile([-1.0, 1.0], 8)
    cases: dict[int, dict] = {1: {}, 2: {}}
    for ranks, stage in SHAPES:
        for offload in OFFLOADS:
            config = configuration(tiny_model(True), ranks, stage, offload)
            cases[ranks][ranks, stage, offload] = config, drawn, advantages, 2, None
    return {**run_ranks(1, cases[1])[0], **run_ranks(2, cases[2])[0]}


@pytest.mark.parametrize(("ranks", "stage"), SHAPES)
def test_updates_are_the_same_bit_for_bit(runs, ranks, stage):
    stayed, moved = (runs[ranks, stage, offload] for offload in OFFLOADS)
    assert all(torch.equal(w, moved["weights"][name]) for name, w in stayed["weights"].items())
    parameters = sum(w.numel() for w in stayed["weights"].values())
    kept = 2 if stage == 0 else 3  # two moments, and master weights if they are not the weights
    assert moved["moved"] >= 4 * kept * parameters // ranks
