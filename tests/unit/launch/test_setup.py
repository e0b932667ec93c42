"""launch/setup.sh and launch/indexes.sh, up to the point where they would install something.

``PATH`` holds stand-ins for the machine's programs, so that each test decides what the machine is.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAMS = "bash awk cat df echo dirname grep id mkdir rm sed sha256sum sleep tail uname xargs"


class Machine:
    """A clone of the repository's set-up, and a ``PATH`` of its own."""

    def __init__(self, folder: Path) -> None:
        self.clone = folder / "clone"
        shutil.copytree(ROOT / "launch", self.clone / "launch")
        shutil.copy(ROOT / "pyproject.toml", self.clone)
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name in PROGRAMS.split():
            (self.bin / name).symlink_to(shutil.which(name))
        self.program("id", "echo 1000")  # no root: nothing is installed on the real machine
        self.python("3.11")
        for name in ("gcc", "c++", "git", "bwrap"):
            self.program(name, "exit 0")

    def program(self, name: str, script: str) -> None:
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)

    def python(self, version: str) -> None:
        """A python3 that answers setup.sh's questions, and makes an environment of nothing."""
        major, minor = version.split(".")
        self.program(
            "python3",
            f"""case "$*" in
                --version) echo "Python {version}.0" ;;
                *version_info*) [[ {major}.{minor} == 3.11 ]] && echo True || echo False ;;
                *"-m venv"*) echo "venv was made" ; mkdir -p .venv/bin ;;
            esac""",
        )

    def start(self, *command: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", *(command or ("launch/setup.sh",))],
            cwd=self.clone,
            env={"PATH": str(self.bin), "HOME": str(self.clone)} | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*command, **variables)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_another_python_is_refused(machine):
    machine.python("3.12")
    result = machine.run()
    assert result.returncode == 1
    assert "Python 3.11 is needed" in result.stderr and "3.12" in result.stderr


def test_python_3_11_is_preferred_by_name(machine):
    (machine.bin / "python3").rename(machine.bin / "python3.11")
    machine.python("3.12")
    assert "cpu profile, Python 3.11" in machine.run().stdout


@pytest.mark.parametrize(("lacks", "package"), [("gcc", "gcc"), ("c++", "g++")])
def test_a_missing_compiler_is_named_with_its_package(machine, lacks, package):
    (machine.bin / lacks).unlink()
    result = machine.run()
    assert result.returncode == 1
    assert "apt-get install" in result.stderr and package in result.stderr


@pytest.mark.parametrize("lacks", ["bubblewrap", "libseccomp2"])
def test_a_missing_sandbox_is_a_warning(machine, lacks):
    if lacks == "bubblewrap":
        (machine.bin / "bwrap").unlink()
    else:
        python = (machine.bin / "python3").read_text()
        machine.program("python3", python.replace("in\n", "in *libseccomp*) exit 1 ;;\n", 1))
    result = machine.run()
    assert f"no {lacks}" in result.stdout
    assert "virtual environment" in result.stdout  # it went on


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_root_gets_what_is_missing_and_on_debian_a_browser_for_the_tests(machine, profile):
    (machine.bin / "bwrap").unlink()
    machine.program("id", "echo 0")
    machine.program("apt-get", 'echo "$*" >>asked; [[ $* != *chromium* ]]')
    result = machine.run(RLVR_PROFILE=profile)
    asked = (machine.clone / "asked").read_text().splitlines()
    assert asked[0].endswith("bubblewrap")
    debian = "ID=debian" in Path("/etc/os-release").read_text().splitlines() and profile == "cpu"
    assert any(line.endswith("chromium chromium-driver") for line in asked) == debian
    assert "virtual environment" in result.stdout, "it goes on, also without a browser"


@pytest.mark.parametrize(("profile", "needs"), [("cpu", 12), ("gpu", 30)])
@pytest.mark.parametrize("short_kib", [1, 0])
def test_a_full_disk_is_refused_before_anything_is_installed(machine, profile, needs, short_kib):
    free = needs * 2**20 - short_kib
    machine.program("df", f"echo Filesystem Size Used Available; echo disk 0 0 {free}")
    result = machine.run(RLVR_PROFILE=profile)
    if short_kib:
        assert result.returncode == 1
        assert f"needs {needs} GiB" in result.stderr and f"{needs - 1} GiB free" in result.stderr
        assert not (machine.clone / ".venv").exists()
    else:
        assert "GiB" not in result.stderr


def test_a_gpu_is_detected_and_can_be_overridden(machine):
    machine.program("nvidia-smi", "echo 'GPU 0: NVIDIA H100 (UUID: GPU-1)'")
    assert "setup: gpu profile" in machine.run().stdout
    shutil.rmtree(machine.clone / ".venv")
    assert "setup: cpu profile" in machine.run(RLVR_PROFILE="cpu").stdout
    result = machine.run(RLVR_PROFILE="tpu")
    assert result.returncode == 1 and "cpu or gpu" in result.stderr


def test_a_failing_step_shows_its_output_and_where_the_rest_is(machine):
    result = machine.run()  # the stand-in for python makes no pip
    assert result.returncode == 1
    assert ".venv/bin/pip" in result.stderr and "failed" in result.stderr
    assert "venv was made" in (machine.clone / ".venv/setup.log").read_text()
    assert not (machine.clone / ".venv/rlvr-setup").exists()


def installed(machine: Machine) -> None:
    """Leave behind what a successful set-up does."""
    programs = machine.clone / ".venv/bin"
    programs.mkdir(parents=True)
    for name in ("python", "pip", "uv"):
        path = programs / name
        path.write_text("#!/bin/bash\n[[ $* != *version_info* ]] || echo True\n")
        path.chmod(0o755)
    result = machine.run()
    assert result.returncode == 0, result.stderr
    assert "ready in" in result.stdout


def test_a_second_call_finds_nothing_to_do(machine):
    installed(machine)
    begin = time.monotonic()
    result = machine.run()
    assert (result.returncode, result.stdout) == (0, "")
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize("name", ["launch/lock/cpu.txt", "pyproject.toml"])
def test_a_changed_lock_or_project_is_installed(machine, name):
    installed(machine)
    with (machine.clone / name).open("a") as file:
        file.write("# changed\n")
    assert "packages: done" in machine.run().stdout
    assert machine.run().stdout == ""


def test_another_profile_replaces_the_environment(machine):
    installed(machine)
    marker = machine.clone / ".venv/marker"
    marker.touch()
    assert "is replaced" in machine.run(RLVR_PROFILE="gpu").stdout
    assert not marker.exists()


def test_a_moved_repository_gets_a_new_environment(machine):
    installed(machine)
    machine.clone = machine.clone.rename(machine.clone.with_name("elsewhere"))
    assert "is replaced" in machine.run().stdout


def runs(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_an_interrupt_ends_what_was_started(machine):
    installed(machine)
    (machine.clone / ".venv/rlvr-setup").unlink()
    pip = machine.clone / ".venv/bin/pip"
    pip.write_text("#!/bin/bash\necho $$ > sleeper; sleep 60\n")
    process = machine.start()
    while not (machine.clone / "sleeper").exists() or not (machine.clone / "sleeper").read_text():
        time.sleep(0.01)
        assert process.poll() is None
    sleeper = int((machine.clone / "sleeper").read_text())
    assert runs(sleeper)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 130
    time.sleep(0.2)
    assert not runs(sleeper)


@pytest.mark.parametrize("source", ["file", "environment"])
def test_uv_sees_the_indexes_of_pip(machine, source):
    settings = {
        "index-url": "https://index/simple",
        "extra-index-url": "https://a/simple\nhttps://b/simple",
        "find-links": "/wheels /more",
    }
    name = "global.{}" if source == "file" else ":env:.{}"
    lines = "\n".join(f"{name.format(k)}={v!r}" for k, v in settings.items())
    (machine.clone / "settings").write_text(lines + "\n")
    machine.program("pip", "cat settings")
    result = machine.run(
        "-c",
        "source launch/indexes.sh; use_pip_indexes pip;"
        'for v in DEFAULT_INDEX INDEX FIND_LINKS; do n=UV_$v; echo "${!n-}"; done',
    )
    assert result.stdout.splitlines() == [
        "https://index/simple",
        "https://a/simple https://b/simple",
        "/wheels,/more",
    ], result.stderr


def test_pips_environment_wins_over_its_files_and_uvs_over_both(machine):
    machine.program(
        "pip", "printf \":env:.index-url='https://e'\\nglobal.index-url='https://f'\\n\""
    )
    command = 'source launch/indexes.sh; use_pip_indexes pip; echo "$UV_DEFAULT_INDEX"'
    assert machine.run("-c", command).stdout == "https://e\n"
    assert machine.run("-c", command, UV_DEFAULT_INDEX="https://u").stdout == "https://u\n"


def test_pytorchs_own_index_is_asked_only_for_a_missing_build(machine):
    command = "source launch/indexes.sh; torch_backend uv python torch==2.13.0+cpu"
    machine.program("uv", "exit 0")
    assert machine.run("-c", command).stdout == ""
    machine.program("uv", "echo no such version >&2; exit 1")
    assert machine.run("-c", command).stdout == "--torch-backend=cpu\n"


def test_every_script_parses():
    for script in [*(ROOT / "launch").glob("*.sh"), ROOT / ".ci" / "run"]:
        subprocess.run(["bash", "-n", script], check=True)
        sourced = script.name in ("indexes.sh", "environment.sh")
        assert os.access(script, os.X_OK) != sourced, script
