"""The scaled-down twins of published recipes train: one of every method and way of the learner."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlvr.hydra_config import CONFIG_PATH, check_overrides, register, run_config

RECIPES = sorted(p.stem for p in Path(CONFIG_PATH, "recipe").glob("*.yaml"))


def twins() -> list[str]:
    """Recipes in which every method, and every way of the learner, is at least once."""
    register()
    words = ["+recipe=" + ",".join(RECIPES), "+scale=tiny"]
    configs = map(run_config, check_overrides("train", words))
    seen: set[tuple[str, object]] = set()
    chosen = []
    for name, c in reversed([*zip(RECIPES, configs, strict=True)]):
        has = {
            *(("credit", c.credit["name"]), ("objective", c.objective["name"])),
            *(("stage", c.learner.zero_stage), ("adapters", bool(c.learner.lora.rank))),
            ("environment", c.data.environment),
        }
        if not has <= seen:
            chosen.append(name)
            seen |= has
    return sorted(chosen)


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
