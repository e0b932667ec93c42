"""Every recipe's header says what the plan says; ``python`` on this file writes them anew."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rlvr.hydra_config import CONFIG_PATH, check_overrides, register, run_config
from rlvr.loop.validate import validated
from rlvr.plan.hardware import gpu
from rlvr.plan.plan import plan_of
from rlvr.plan.text import headline

FOLDER = Path(CONFIG_PATH) / "recipe"
LAPTOP = {"quickstart", "calculator"}
RECIPES = sorted(p.stem for p in FOLDER.glob("*.yaml") if p.stem not in LAPTOP)
SHARED = "cluster.placement=colocated"
MACHINES = {  # one node of eight for all others
    "lora_delta_qwen3_8b": ["cluster=1x1", SHARED],
    "lora_delta_qwen3_14b": ["cluster=1x2", SHARED, "rollout.tensor_parallel=2"],
}
LINE = re.compile(r"^# Planned on .*\n", re.MULTILINE)


def expected(recipe: str) -> str:
    register()
    machines = MACHINES.get(recipe, ["cluster=1x8"])
    [node] = check_overrides("train", [f"+recipe={recipe}", *machines])
    line = headline(plan_of(validated(run_config(node), files=False), gpu("h100")))
    return f"# P{line[1:]}.\n"


@pytest.mark.parametrize("recipe", MACHINES)
def test_the_machines_are_named_in_the_header_and_suffice(recipe) -> None:
    header = (FOLDER / f"{recipe}.yaml").read_text().split("defaults:")[0]
    assert f"\n# {' '.join(MACHINES[recipe])}\n" in header
    assert ", fits;" in expected(recipe)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_header_is_the_plan(recipe) -> None:
    said = LINE.search((FOLDER / f"{recipe}.yaml").read_text())
    assert said and said[0] == expected(recipe)
    assert len(said[0]) <= 101


if __name__ == "__main__":
    for name in RECIPES:
        file = FOLDER / f"{name}.yaml"
        text = LINE.sub("", file.read_text())
        end = text.index("\ndefaults:") + 1
        file.write_text(text[:end] + expected(name) + text[end:])
