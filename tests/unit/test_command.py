"""The ``rlvr`` command, and the wheel that brings it, in a folder where there is nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rlvr.__main__ import COMMANDS
from rlvr.completion import completions

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The folder into which a wheel of this repository was installed."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in ("rlvr", "conf"):
        shutil.copytree(
            ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheel = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(source), str(source)]
    subprocess.run([*pip, *wheel], check=True)
    [built] = source.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(built)], check=True)
    return site


def test_a_wheel_composes_every_recipe(installed, tmp_path):
    program = """
import sys
from pathlib import Path
import rlvr
from rlvr.hydra_config import check_overrides, register, run_config
assert str(Path(rlvr.__file__)).startswith(sys.argv[1]), rlvr.__file__
register()
[here] = rlvr.__path__
recipes = ",".join(sorted(p.stem for p in Path(here).glob("conf/recipe/*.yaml")))
nodes = check_overrides("train", ["+recipe=" + recipes, "cluster=1x8", "train.output_dir=out"])
print(*(run_config(node).model.path for node in nodes), sep="\\n")
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(installed)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(list(ROOT.glob("conf/recipe/*.yaml")))


def test_the_command_of_a_wheel_shows_its_recipes(installed, tmp_path):
    done = subprocess.run(
        [sys.executable, str(installed / "bin" / "rlvr")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "  delta_qwen3_8b\n" in done.stdout, done.stdout + done.stderr


def test_every_command_is_a_module():
    for command in COMMANDS:
        assert list(ROOT.glob(f"rlvr/{command}.py")) or list(
            ROOT.glob(f"rlvr/{command}/__main__.py")
        )


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("rlvr pl", ["plan"]),
        ("rlvr train cluster.place", ["cluster.placement="]),
        ("rlvr plan cluster.placement=d", ["disaggregated"]),
        ("rlvr train +recipe=quick", ["quickstart"]),
        ("rlvr train credit=thr", ["thr"]),
        ("rlvr report trai", []),
        ("rlvr train +recipe=quickstart learner.ze", ["learner.zero_stage="]),
    ],
)
def test_completion(line, offered):
    assert list(completions(tuple(COMMANDS), {"COMP_LINE": line})) == offered


def test_completion_of_a_new_word_offers_keys_and_groups():
    offered = list(completions(tuple(COMMANDS), {"COMP_LINE": "rlvr train "}))
    assert {"+recipe=", "credit=", "train.steps=", "telemetry.guards.kl_blow_up="} <= set(offered)
