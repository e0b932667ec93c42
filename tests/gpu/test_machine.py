"""The machine: driver, memory, ways between GPUs and processes. Needs torch alone."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def test_driver(need, figures):
    """A driver for this torch.

    If not: install a driver that knows the CUDA of this torch (580 or newer for CUDA 13), or, in a
    container, the NVIDIA container toolkit and --gpus all.
    """
    count = need(usable=False)
    import torch

    assert torch.cuda.is_available(), f"nvidia-smi lists {count} GPUs, and torch can use none"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    driver = subprocess.run(query, capture_output=True, text=True, timeout=60).stdout.strip()
    device = torch.cuda.get_device_properties(0)
    figures(
        f"{torch.cuda.device_count()} x {device.name}, {device.total_memory / 1e9:.0f} GB, "
        f"driver {driver}, torch {torch.__version__} for CUDA {torch.version.cuda}"
    )


def test_shared_memory(need, figures):
    """Shared memory between processes.

    If not: give the container the host's, docker run --ipc=host, or --shm-size.
    """
    need(usable=False)
    free = shutil.disk_usage("/dev/shm").free / 2**30
    assert free > 8, f"/dev/shm has {free:.1f} GiB free; NCCL and Ray need more"
    figures(f"/dev/shm has {free:.0f} GiB free")


def test_copies(need, figures, program):
    """Copies in a GPU, from the host and between GPUs.

    If not: the GPU itself is at fault; read nvidia-smi -q and the kernel's log (dmesg).
    """
    need()
    rate = program(str(HERE / "copies.py"), within_s=120)
    between = f", between two GPUs {rate['peer']:.0f}" if rate["peer"] else ""
    figures(f"GB/s: in a GPU {rate['device']:.0f}, from the host {rate['host']:.0f}{between}")


def test_ipc(need, figures, program):
    """Two processes share a GPU's memory.

    If not: colocated publishing (weights.backend=ipc) will not work; run the container with
    --ipc=host and all of a job's processes in one container, or use
    cluster.placement=disaggregated.
    """
    need()
    shared = program(str(HERE / "ipc.py"), within_s=120)
    assert shared["same"], "the other process read something else"
    figures(f"opened and copied at {shared['gb_per_s']:.0f} GB/s")


def test_collectives(need, figures, program):
    """NCCL among all GPUs.

    If not: run once more with NCCL_DEBUG=INFO; between nodes NCCL needs InfiniBand's devices in
    the container (docker/README.md) and NCCL_SOCKET_IFNAME where there are several networks.
    """
    count = need(count=2)
    command = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    rate = program(*command, str(HERE / "collective.py"), within_s=180)
    figures(f"{rate['ranks']} GPUs: broadcast at {rate['gb_per_s']:.0f} GB/s")


def test_infiniband(need, figures):
    """InfiniBand, where the machine has some.

    If not: install libibverbs1 and ibverbs-providers, and pass --device=/dev/infiniband to a
    container; else NCCL goes over TCP between nodes, many times slower.
    """
    need(usable=False)
    adapters = list(Path("/sys/class/infiniband").glob("*"))
    if not adapters:
        pytest.skip("there is none")
    assert Path("/dev/infiniband").is_dir(), "there are adapters, but no /dev/infiniband"
    ctypes.CDLL("libibverbs.so.1")
    figures(f"{len(adapters)} adapters")
