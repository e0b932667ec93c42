"""Plans at the start of a run and in a report."""

from __future__ import annotations

import json
from dataclasses import replace

from omegaconf import OmegaConf

from rlvr.config import ModelConfig
from rlvr.loop.validate import validated
from rlvr.plan.compare import announced, compared
from rlvr.plan.hardware import GPUS
from rlvr.telemetry.record import RunRecord


def test_a_run_begins_with_its_plan(configured, tiny_model) -> None:
    large = validated(configured("+recipe=delta_qwen3_8b", "cluster=1x8"), files=False)
    assert announced(large).startswith("planned on 1x8 H100: learner GPU 58")
    small = configured("+recipe=quickstart", f"model.path={tiny_model(True)}")
    assert "GB a learner rank" in announced(validated(small, files=False))


def test_no_run_fails_for_want_of_a_plan(configured, tmp_path) -> None:
    config = validated(configured("+recipe=delta_qwen3_8b", "cluster=1x8"), files=False)
    unknown = replace(config, model=ModelConfig(path=str(tmp_path)))
    assert announced(unknown).startswith("not planned: model.path")


def test_a_report_puts_plan_beside_measurement(configured, tmp_path) -> None:
    config = validated(configured("+recipe=delta_qwen3_8b", "cluster=1x8"), files=False)
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(config))
    row = {
        "step": 1,
        "rollout/reward_mean": 0.5,
        "length/mean": 4096.0,
        "groups/with_spread": 0.6,
        "time/step_s": 1000.0,
        "time/rollout_s": 800.0,
        "time/update_s": 200.0,
    }
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    told = compared(RunRecord.read(tmp_path), GPUS["h100"])
    lines = [line.split() for line in told.splitlines()[1:]]
    assert [line[0] for line in lines] == ["rollout", "update"]
    for _, planned, _, measured, _, ratio in lines:
        assert abs(float(planned) / float(measured) - float(ratio)) < 0.01


def test_a_run_without_gpus_is_not_compared(configured, tiny_model, tmp_path) -> None:
    config = configured("+recipe=quickstart", f"model.path={tiny_model(True)}")
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(validated(config, files=False)))
    row = {"step": 1, "rollout/reward_mean": 0.5, "time/step_s": 1.0}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert compared(RunRecord.read(tmp_path), GPUS["h100"]) is None
