"""The scaled-down twins of published recipes train: one of every method and way of the learner."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlvr.hydra_config import CONFIG_PATH, check_overrides, register, run_config

RECIPES = sorted(p.stem for p in Path(CONFIG_PATH, "recipe").glob("*.yaml"))


def twins() -> list[str]:
    """One recipe of those that differ in model and numbers alone: their twins are alike."""
    register()
    words = ["+recipe=" + ",".join(RECIPES), "+scale=tiny"]
    configs = map(run_config, check_overrides("train", words))
    kinds = [
        (c.credit["name"], c.objective["name"], c.learner.zero_stage, c.learner.lora.rank)
        for c in configs
    ]
    chosen = dict(zip(kinds, RECIPES, strict=True)).values()
    return sorted(chosen, key=lambda name: (name == "quickstart", name))  # it has its own engines


@pytest.mark.timeout(900)
def test_the_twin_of_every_recipe(command_line, tmp_path):
    recipes = twins()
    command_line(
        "--multirun",
        f"+recipe={','.join(recipes)}",
        "+scale=tiny",
        f"train.output_dir={tmp_path}",
        timeout_s=900,
    )
    for recipe in recipes:
        run = tmp_path / f"recipe={recipe}"
        rows = list(map(json.loads, (run / "metrics.jsonl").read_text().splitlines()))
        steps = [row for row in rows if "rollout/reward_mean" in row]
        assert [row["step"] for row in steps] == [1, 2], recipe
        assert any(row["update/grad_norm"] > 0 for row in steps), recipe
        assert not any("nonfinite" in row for row in rows), recipe
        assert any(key.startswith("evaluation/") for row in rows for key in row), recipe
        assert (run / "model" / "model.safetensors").exists(), recipe
