"""Learner ranks as plain processes, without Ray."""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def run_ranks():
    """``run_ranks(world, cases, folder)``: what each rank saved, per case."""
    return _run_ranks


def _run_ranks(world: int, cases: dict, folder: Path) -> list[dict]:
    """Start ``world`` rank processes, run all cases in them, return what each rank saved."""
    with socket.socket() as s:
        s.bind(("", 0))
        port = str(s.getsockname()[1])
    (folder / f"cases{world}").write_bytes(pickle.dumps(cases))
    script = Path(__file__).with_name("rank_process.py")
    arguments = [str(world), port, str(folder / f"cases{world}"), str(folder / f"out{world}")]
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    outputs = [p.communicate(timeout=280)[0] for p in processes]
    for p, output in zip(processes, outputs, strict=True):
        assert p.returncode == 0, output[-4000:]
    return [torch.load(f"{folder}/out{world}.{rank}", weights_only=False) for rank in range(world)]
