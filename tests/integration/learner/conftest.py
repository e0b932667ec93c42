"""Learner ranks as plain processes, without Ray."""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch


class Ranks:
    """``world`` processes of one group, started once and given cases by files."""

    def __init__(self, world: int, folder: Path) -> None:
        self.folder, self.calls = folder, 0
        with socket.socket() as s:
            s.bind(("", 0))
            port = str(s.getsockname()[1])
        script = str(Path(__file__).with_name("rank_process.py"))
        self.logs = [folder / f"log{rank}" for rank in range(world)]
        self.processes = [
            subprocess.Popen(
                [sys.executable, script, str(rank), str(world), port],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log.open("w"),
                text=True,
            )
            for rank, log in enumerate(self.logs)
        ]

    def run(self, cases: dict) -> list[dict]:
        """What each rank saved, per case."""
        self.calls += 1
        path = self.folder / f"cases{self.calls}"
        path.write_bytes(pickle.dumps(cases))
        for process in self.processes:
            print(path, file=process.stdin, flush=True)
        saved = [process.stdout.readline().strip() for process in self.processes]
        for result, log in zip(saved, self.logs, strict=True):
            assert result, log.read_text()[-4000:]
        return [torch.load(result, weights_only=False) for result in saved]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def run_ranks(tmp_path_factory):
    """``run_ranks(world, cases)``: what each rank saved, per case."""
    made: dict[int, Ranks] = {}

    def run(world: int, cases: dict) -> list[dict]:
        ranks = made.pop(world, None) or Ranks(world, tmp_path_factory.mktemp("ranks"))
        try:
            results = ranks.run(cases)
        except BaseException:  # a time limit too: what they are doing is of no use to the next
            ranks.close()
            raise
        made[world] = ranks
        return results

    yield run
    for ranks in made.values():
        ranks.close()
