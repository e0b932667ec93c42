"""Runs of one session: they share their engines, which take longer to start than a run takes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file

from rlvr.config import RunConfig
from rlvr.hydra_config import CONFIG_PATH, register, run_config
from rlvr.loop.run import Session
from rlvr.loop.validate import validated


class Runs:
    """A session, and what its runs leave in their folders."""

    def __init__(self, common: list[str]) -> None:
        register()
        self._common = common
        self._session = Session()
        self._runner = asyncio.Runner()

    def configured(self, *overrides: str) -> RunConfig:
        with initialize_config_dir(CONFIG_PATH, version_base="1.3"):
            every = [*self._common, *overrides]
            return validated(run_config(compose("train", overrides=every)))

    def train(self, folder: Path, *overrides: str) -> None:
        config = self.configured(*overrides, f"train.output_dir='{folder}'")
        self._runner.run(self._session.train(config))

    def engines(self) -> list[object]:
        """That the last run left behind."""
        actors = self._session._actors
        assert actors is not None
        return [*actors.rollout.actors, *actors.learners.workers]

    def close(self) -> None:
        self._runner.run(self._session.close())
        self._runner.close()


@pytest.fixture(scope="package")
def session(ray_here, guessing) -> Iterator[Runs]:
    """On the guesser, with two ranks."""
    runs = Runs([*guessing, "learner.ranks=2", "cluster.torch_threads=1"])
    yield runs
    runs.close()


@pytest.fixture(scope="session")
def rows():
    """``rows(file)`` of JSONL."""

    def read(file: Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in file.read_text().splitlines()]

    return read


@pytest.fixture(scope="session")
def weights():
    """``weights(folder)`` that a run saved."""

    def load(folder: Path) -> dict[str, torch.Tensor]:
        return load_file(folder / "model" / "model.safetensors")

    return load


@pytest.fixture(scope="package")
def talking(guesser, tmp_path_factory):
    """The guesser's rows, with an environment that says something to whatever it hears."""
    path = tmp_path_factory.mktemp("talking") / "rows.jsonl"
    rows = [json.loads(line) for line in (guesser / "rows.jsonl").read_text().splitlines()]
    for i, row in enumerate(rows):
        replies = [{"say": f"w{i % 9} w{i % 7}", "reward": 0.125}, f"w{i % 5}"]
        row |= {"environment": "dialogue", "replies": replies}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
