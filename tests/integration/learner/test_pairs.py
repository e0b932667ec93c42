"""Every credit method that goes with an objective trains with it for five steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rlvr.algorithm.compatibility import compatible
from rlvr.algorithm.credit import CREDITS
from rlvr.algorithm.objectives import OBJECTIVES
from rlvr.config import RunConfig
from rlvr.types import Answers, Group, Outcome, Prompt, Response, Verdict

GROUPS, SIZE, STEPS = 4, 4, 5
PAIRS = [
    (credit, objective)
    for credit in CREDITS.names()
    for objective in OBJECTIVES.names()
    if compatible(credit, objective) is None
]


def awkward_groups(generator: np.random.Generator) -> list[Group]:
    """One-token responses, equal rewards, a single correct one, truncated ones."""
    groups = []
    for g in range(GROUPS):
        good = {0: [1, 1, 0, 0], 1: [1, 0, 0, 0], 2: [1, 1, 1, 1], 3: [1, 0, 1, 0]}[g]
        responses = []
        for i in range(SIZE):
            n = 1 if (g, i) in ((0, 0), (3, 1)) else int(generator.integers(2, 14))
            ids = generator.integers(3, 128, n).astype(np.int32)
            logp = -generator.random(n).astype(np.float32)
            reason = "length" if i == 3 else "stop"
            responses.append(Response(ids, logp, np.zeros(n, np.int32), reason))
        verdicts = [Verdict(float(x), Outcome.CORRECT if x else Outcome.INCORRECT) for x in good]
        prompt = generator.integers(3, 128, 5).tolist()
        groups.append(Group(Prompt(str(g), prompt, "", "", "exact"), responses, verdicts))
    return groups


@pytest.fixture(scope="module")
def results(tiny_model, run_ranks, tmp_path_factory):
    groups = awkward_groups(np.random.default_rng())
    rewards = np.stack([g.rewards for g in groups])
    spread = rewards.std(1, ddof=1, keepdims=True)
    advantages = ((rewards - rewards.mean(1, keepdims=True)) / (spread + 1e-6)).reshape(-1)
    lengths = [len(r.token_ids) for g in groups for r in g.responses]
    span = np.array([[max(n - 2, 0), max(n - 1, 1)] for n in lengths])
    answers = Answers(span, np.full((len(lengths), 1), 7))
    cases = {}
    for credit, objective in PAIRS:
        config = RunConfig()
        config.model.path, config.model.dtype = tiny_model(True), "float32"
        config.cluster.gpus_per_node = 0
        config.learner.ranks, config.learner.zero_stage, config.learner.lr = 1, 2, 1e-3
        config.objective, config.credit = {"name": objective}, {"name": credit}
        config.correction = {"name": "tis"}
        config.train.steps = STEPS
        cases[credit, objective] = (config, groups, advantages, 2, answers)
    return run_ranks(1, cases, tmp_path_factory.mktemp("pairs"))[0]


@pytest.mark.parametrize(("credit", "objective"), PAIRS)
def test_pair(results, credit, objective):
    result = results[credit, objective]
    for name, (total, count) in result["metrics"].items():
        assert math.isfinite(total) and math.isfinite(count), name
    assert all(torch.isfinite(w).all() for w in result["weights"].values())
    assert torch.isfinite(result["coefficients"]).all()
    assert (result["coefficients"] >= 0).all()


def test_methods_differ(results):
    """No method silently is another one: the trained weights are all different.

    NTHR is left out: where no token is over its threshold it rightly is uniform.
    """
    prints = {}
    for pair, result in results.items():
        if pair[0] == "nthr":
            continue
        value = float(sum(w.double().square().sum() for w in result["weights"].values()))
        prints.setdefault(value, []).append(pair)
    same = [pairs for pairs in prints.values() if len(pairs) > 1]
    assert not same, same
