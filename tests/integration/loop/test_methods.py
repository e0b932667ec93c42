"""Every credit method that goes with an objective trains with it, from the command line."""

from __future__ import annotations

import json
import math

import pytest
from safetensors.torch import load_file

from rlvr.algorithm.compatibility import compatible
from rlvr.algorithm.credit import CREDITS
from rlvr.algorithm.objectives import OBJECTIVES

STEPS = 5


ADVANTAGE = [o for o in OBJECTIVES.names() if compatible("thr", o) is None]
LABELS = [o for o in OBJECTIVES.names() if o not in ADVANTAGE]
REWEIGHTING = [c for c in CREDITS.names() if compatible(c, LABELS[0]) is not None]
SWEEPS = {
    "advantage": (CREDITS.names(), ADVANTAGE),
    "labels": ([c for c in CREDITS.names() if c not in REWEIGHTING], LABELS),
}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("sweep", SWEEPS)
def test_every_allowed_pair(command_line, tmp_path, sweep):
    credits, objectives = SWEEPS[sweep]
    command_line(
        "--multirun",
        f"credit={','.join(credits)}",
        f"objective={','.join(objectives)}",
        f"train.steps={STEPS}",
        "train.prompts_per_step=4",
        "train.prompts_per_mini_batch=2",
        "rollout.group_size=4",
        "correction=tis",
        "learner.ranks=2",
        "learner.zero_stage=3",
        "learner.lr=1e-3",
        "learner.gradient_checkpointing=false",
        f"train.output_dir={tmp_path}",
        timeout_s=900,
    )
    weights: dict[float, list[str]] = {}
    for credit in credits:
        for objective in objectives:
            run = tmp_path / f"credit={credit},objective={objective}"
            rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
            steps = [row for row in rows if "rollout/reward_mean" in row]
            assert len(steps) == STEPS, run.name
            assert not any("nonfinite" in row for row in steps), run.name
            assert any(0 < row["rollout/reward_mean"] < 1 for row in steps)
            assert all(math.isfinite(row["update/grad_norm"]) for row in steps)
            assert any(row["update/grad_norm"] > 0 for row in steps), run.name
            trained = load_file(run / "model" / "model.safetensors")
            total = float(sum(w.double().square().sum() for w in trained.values()))
            if credit != "nthr":  # where no token is over its threshold it rightly is uniform
                weights.setdefault(total, []).append(run.name)
    assert not [same for same in weights.values() if len(same) > 1], "a method is another one"
