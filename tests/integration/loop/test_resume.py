"""A run that goes on from a checkpoint comes to the same numbers, bit for bit."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from rlvr.config import RunConfig
from rlvr.errors import ConfigError
from rlvr.telemetry.ledger import verdict
from rlvr.telemetry.run_folder import RunFolder


def configuration(model: str, folder, name: str) -> RunConfig:
    rows = [{"problem": f"w{i} w{i + 1} w{i % 7}", "answer": "w5"} for i in range(3, 14)]
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(r) + "\n" for r in rows))
    config = RunConfig()
    config.model.path, config.model.dtype = model, "float32"
    config.data.train, config.data.template = [str(data)], "none"
    config.data.max_prompt_tokens, config.data.verifier = 16, "exact"
    config.cluster.gpus_per_node = 0
    config.rollout.group_size, config.rollout.max_response_tokens = 4, 12
    config.learner.ranks, config.learner.zero_stage, config.learner.lr = 2, 2, 3e-3
    config.learner.entropy_bonus = 0.1
    config.credit, config.strength = {"name": "random"}, {"name": "linear", "steps": 4}
    config.train.steps, config.train.prompts_per_step = 4, 4
    config.train.prompts_per_mini_batch = 2
    config.train.checkpoint_every = 2
    config.train.output_dir = str(folder / name)
    config.telemetry.wandb = "disabled"
    return config


def test_resumed_equals_uninterrupted(train, tiny_model, tmp_path):
    whole = configuration(tiny_model(True), tmp_path, "whole")
    train(whole)
    checkpoints = tmp_path / "whole" / "checkpoints"
    assert sorted(p.name for p in checkpoints.glob("step_*")) == ["step_000002", "step_000004"]
    rows = map(json.loads, (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines())
    times = [(r["step"], r["time/checkpoint_s"]) for r in rows if "checkpoint/gb" in r]
    assert [step for step, _ in times] == [2, 4] and all(seconds > 0 for _, seconds in times)

    resumed = configuration(tiny_model(True), tmp_path, "resumed")
    resumed.train.resume = str(checkpoints / "step_000002")
    train(resumed)

    expected = load_file(tmp_path / "whole" / "model" / "model.safetensors")
    actual = load_file(tmp_path / "resumed" / "model" / "model.safetensors")
    assert all(torch.equal(expected[k], actual[k]) for k in expected)
    ledgers = [RunFolder(tmp_path / name).read_ledger() for name in ("whole", "resumed")]
    assert verdict(ledgers[0], 4) == "16, each trained on once"
    assert ledgers[1] == [row for row in ledgers[0] if row["step"] > 2]
    for step in (3, 4):
        a, b = (
            pq.read_table(tmp_path / name / "responses" / f"step_{step:06d}.parquet")
            for name in ("whole", "resumed")
        )
        assert a["response"].to_pylist() == b["response"].to_pylist()
        assert a["prompt"].to_pylist() == b["prompt"].to_pylist()
        assert a["coefficient"].to_pylist() == b["coefficient"].to_pylist()
    steps = [r for r in RunFolder(tmp_path / "resumed").read_metrics() if "credit/strength" in r]
    assert [r["credit/strength"] for r in steps] == pytest.approx([2 / 3, 1])


def test_a_missing_checkpoint_is_named(train, tiny_model, tmp_path):
    config = configuration(tiny_model(True), tmp_path, "run")
    config.train.resume = str(tmp_path / "nothing")
    with pytest.raises(ConfigError, match=r"train\.resume: no checkpoint in .*nothing"):
        train(config)
