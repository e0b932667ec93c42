"""Scripts and images under the linters of their own languages."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rlvr.hydra_config import check_overrides, register, run_config

ROOT = Path(__file__).parents[3]
SCRIPTS = [*ROOT.glob("launch/*.sh"), ROOT / "launch/slurm.sbatch", *ROOT.glob("tests/**/*.sh")]


def tool(name: str) -> str:
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    assert found, f"{name} is not installed"
    return found


def test_scripts():
    """Sourced files are looked up; a word that is to be split is no fault."""
    options = ["--shell=bash", "--severity=warning", "--exclude=SC1091,SC2046,SC2054,SC2164"]
    done = subprocess.run(
        [tool("shellcheck"), *options, *map(str, SCRIPTS)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_images(kind):
    file = ROOT / "docker" / f"Dockerfile.{kind}"
    done = subprocess.run([tool("hadolint"), str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "USER 1000" in file.read_text() and f"RLVR_PROFILE={kind}" in file.read_text()


def test_the_rayjob_is_of_the_locked_ray_and_of_a_run_that_composes(monkeypatch):
    job = yaml.safe_load((ROOT / "launch" / "kuberay.yaml").read_text())
    cluster = job["spec"]["rayClusterSpec"]
    lock = (ROOT / "launch" / "lock" / "gpu.txt").read_text()
    assert f"\nray=={cluster['rayVersion']}\n" in lock
    program, *words = job["spec"]["entrypoint"].split(" -m rlvr.train ")
    register()
    [node] = check_overrides("train", words[0].split())
    config = run_config(node)
    gpus = int(cluster["headGroupSpec"]["rayStartParams"]["num-gpus"])
    nodes = 1 + sum(group["replicas"] for group in cluster["workerGroupSpecs"])
    assert (config.cluster.nodes, config.cluster.gpus_per_node) == (nodes, gpus)
    assert config.train.resume == "auto" and program == "python"
