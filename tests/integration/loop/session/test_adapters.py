"""Adapters that are published alone: vLLM's LoRA computes what the learner computes."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("staleness", [0, 1])
def test_engines_serve_the_adapters_of_every_version(session, rows, tmp_path, staleness):
    """B begins as 0 and the rate is large: an adapter that is stale or lost would be far off."""
    session.train(
        tmp_path,
        *("learner.lora.rank=4", "learner.lora.publish=adapter", "learner.optimizer=sgd"),
        *("learner.lr=3", "learner.max_grad_norm=0", "learner.zero_stage=3"),
        *("rollout.group_size=4", "train.prompts_per_step=8", "train.steps=4"),
        f"train.max_staleness={staleness}",
    )
    steps = [row for row in rows(tmp_path / "metrics.jsonl") if "rollout/reward_mean" in row]
    assert len(steps) == 4 and all(row["update/grad_norm"] > 0 for row in steps)
    off = [row["mismatch/logp_max"] for row in steps if not row["staleness/max"]]
    assert max(off) < 1e-5
    stale = [row["mismatch/logp_max"] for row in steps if row["staleness/max"]]
    assert staleness or not stale
    assert all(x > 1e-3 for x in stale), "a version changes what is sampled"
