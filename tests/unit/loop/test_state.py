"""Checkpoints are written while training goes on; one that fails is told and harms no other."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import pytest
import torch

from rlvr.config import RunConfig, TelemetryConfig
from rlvr.data.stream import PromptStream
from rlvr.errors import RunError
from rlvr.learner.state_files import Piece, SharedState, write
from rlvr.learner.worker import LearnerWorker
from rlvr.loop.batch import RolloutBatch
from rlvr.loop.state import RunState, resume_point
from rlvr.storage import Folder
from rlvr.telemetry.run_folder import RunFolder
from rlvr.telemetry.run_log import Telemetry
from rlvr.types import Prompt


class OneRank:
    """Stands for the learner's ranks: one parameter, written in a thread when told to."""

    def __init__(self) -> None:
        self.may_write = threading.Event()
        self.may_write.set()

    async def save_checkpoint(self, folder: str) -> None:
        self.writing = asyncio.create_task(asyncio.to_thread(self._write, Folder(folder)))

    def _write(self, folder: Folder):
        self.may_write.wait(10)
        return write(folder, 0, [Piece("fp32/w", 0, torch.ones(3))], SharedState({"w": [3]}))

    async def written_checkpoint(self):
        return await self.writing

    async def load_checkpoint(self, folder: str) -> None:
        pass


@pytest.fixture
def config(tmp_path, tiny_model) -> RunConfig:
    config = RunConfig()
    config.model.path, config.data.train, config.train.steps = tiny_model(True), ["rows"], 9
    config.train.output_dir, config.train.resume = str(tmp_path), "auto"
    config.train.checkpoint_every, config.train.keep_checkpoints = 1, 1
    config.telemetry = TelemetryConfig(wandb="disabled", progress=False)
    return config


@pytest.fixture
def ranks() -> OneRank:
    return OneRank()


@pytest.fixture
def state(config, ranks) -> RunState:
    folder = RunFolder.open(config.train.output_dir)
    telemetry = Telemetry(config.telemetry, folder)
    telemetry.start(config)
    stream = PromptStream([Prompt("a", [1], "", "", "exact")], 0)
    return RunState(config, stream, ranks, telemetry)


async def step(state: RunState) -> None:
    state.advance(RolloutBatch(state.step, [], {"at": state.step + 1}, 0))
    await state.checkpoint_if_due()


def test_training_does_not_wait_for_the_disk(config, state, ranks):
    async def train() -> None:
        ranks.may_write.clear()
        began = time.perf_counter()
        await step(state)
        took = time.perf_counter() - began
        assert resume_point(config) is None
        second = asyncio.create_task(step(state))
        done, _ = await asyncio.wait([second], timeout=0.3 + took)
        assert not done  # at most one is under way
        ranks.may_write.set()
        await second
        await state.written()

    asyncio.run(train())
    found = resume_point(config)
    assert (found.step, found.state["stream"]) == (2, {"at": 2})
    rows = RunFolder(config.train.output_dir).read_metrics()
    assert [row["step"] for row in rows] == [1, 2]
    first, second = (row["time/checkpoint_s"] for row in rows)
    assert second > 0.2 and first < second  # it alone has waited
    assert all(row["checkpoint/gb"] > 0 for row in rows)


def test_a_checkpoint_that_cannot_be_written(config, state, tmp_path):
    async def train() -> None:
        await step(state)
        await state.written()
        await step(state)  # its folder vanishes while the ranks write, as on a disk that fails
        (tmp_path / "checkpoints" / "step_000002").rename(tmp_path / "away")
        with pytest.raises((RunError, OSError)):
            await state.written()

    asyncio.run(train())
    assert resume_point(config).step == 1


def test_what_was_measured_is_kept(config, state, ranks):
    async def train() -> None:
        state.measured["audit/correlation"] = 0.25
        await step(state)
        state.measured["audit/correlation"] = 0.5  # too late for the checkpoint under way
        await state.written()
        await state.restore(resume_point(config))

    asyncio.run(train())
    assert state.measured == {"audit/correlation": 0.25}


def test_the_best_is_kept(config, state):
    config.train.keep_best = "evaluation/greedy/accuracy"

    async def train() -> None:
        for accuracy in (0.1, 0.9, 0.3, 0.2):
            await step(state)
            await state._telemetry.evaluation(state.step, "greedy", {"accuracy": accuracy})
        await state.written()

    asyncio.run(train())
    kept = (Path(config.train.output_dir) / "checkpoints").iterdir()
    assert sorted(p.name for p in kept) == ["step_000002", "step_000004"]


def test_a_rank_says_which_it_is(config, tmp_path):
    with pytest.raises(RunError, match=r"Learner rank 3 on .* could not write .*nowhere"):
        LearnerWorker(config, 3, 0)._write(Folder(str(tmp_path / "nowhere")), [], None)
