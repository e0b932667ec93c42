"""The guide names every metric, and none that there is not."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import torch

from rlvr.algorithm.credit import SoloRanks
from rlvr.algorithm.credit.diagnostics import coefficient_metrics
from rlvr.telemetry.metrics import rollout_metrics, throughput

ROOT = Path(__file__).parents[3]
README = (ROOT / "rlvr" / "telemetry" / "README.md").read_text()
REFERENCE = README[README.index("\n## Every metric") :]
CELLS = [line.split("|")[1] for line in REFERENCE.splitlines() if line.startswith("| `")]
NAMED = {name for cell in CELLS for name in re.findall("`([^`]+)`", cell)}
OPEN = {n for n in NAMED if n.startswith("evaluation/") or "<method>" in n}  # of a configuration
ROOMS = "|".join({name.split("/")[0] for name in NAMED - OPEN})


def keys(folder: str) -> set[str]:
    """Every literal key of a package: ``{"key": ...}`` and ``x["key"] = ...``."""
    found = []
    for file in (ROOT / "rlvr" / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Dict):
                found += node.keys
            if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
                found.append(node.slice)
    constants = {key.value for key in found if isinstance(key, ast.Constant)}
    return {key for key in constants if isinstance(key, str)}


def test_the_guide_names_every_metric_and_no_other(make_group):
    groups = [make_group([(2, "correct", 1.0), (2, "incorrect", 0.0)])]
    found = {**rollout_metrics(groups, 0), **throughput(groups, {"time/step_s": 1.0})}.keys()
    c, advantage = torch.tensor([1.0, 2.0]), torch.tensor([1.0, -1.0])
    found |= {f"credit/{name}" for name in coefficient_metrics(c, advantage, SoloRanks())}
    found |= {f"credit/{k}" for k in keys("algorithm/credit") if re.fullmatch(r"[a-z]+_\w+", k)}
    found.add("credit/assign_s")  # of the stage, which reports the same of shadows
    for folder in ("algorithm", "learner", "loop", "telemetry"):
        found |= {k for k in keys(folder) if re.fullmatch(rf"({ROOMS})/[a-z_]+", k)}
    loop = (ROOT / "rlvr" / "loop" / "trainer.py").read_text()
    found |= {f"time/{name}_s" for name in re.findall(r'stage\("(\w+)"\)', loop)}
    assert found == NAMED - OPEN
