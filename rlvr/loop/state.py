"""Where a run stands: the step, the place in the data, and checkpoints of both."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rlvr.config import RunConfig
from rlvr.data.stream import PromptStream
from rlvr.errors import ConfigError
from rlvr.learner.group import LearnerGroup
from rlvr.loop.batch import RolloutBatch
from rlvr.loop.checkpoint import Checkpoint
from rlvr.loop.checkpoints import Checkpoints, find_checkpoint
from rlvr.storage import Folder
from rlvr.telemetry.run_folder import RunFolder
from rlvr.telemetry.run_log import Telemetry


class RunState:
    """The step counter and the checkpoints of a run.

    A checkpoint is written beside the training. At most one is under way; the next one and the
    end of the run wait for it. The stream gives out again what was under way, with the same
    seeds, so a resumed run sees the groups that the interrupted one would have seen.
    """

    def __init__(
        self, config: RunConfig, stream: PromptStream, learners: LearnerGroup, telemetry: Telemetry
    ) -> None:
        self._config = config
        self._learners = learners
        self._telemetry = telemetry
        self._folder = RunFolder(Path(config.train.output_dir).resolve())
        self._checkpoints = Checkpoints.of(config)
        self._disk = ThreadPoolExecutor(1, "checkpoint")
        self._stream_state: dict[str, Any] = stream.state()
        self._writing: asyncio.Task[None] | None = None
        self.step = 0
        self.measured: dict[str, float] = {}  # see ``algorithm/strength.py``

    def advance(self, batch: RolloutBatch) -> None:
        self.step = batch.step + 1
        self._stream_state = batch.stream_state

    async def restore(self, checkpoint: Checkpoint) -> None:
        """Bring the learners to where ``checkpoint`` was taken; the stream is there already."""
        self.step = checkpoint.step
        self.measured = dict(checkpoint.state.get("measured", {}))
        await self._learners.load_checkpoint(str(checkpoint.learner))
        await self._beside(self._checkpoints.forget_after, self.step)

    async def checkpoint_if_due(self) -> bool:
        """Begin one where it is due, and say so. Raises what went wrong with the last one."""
        if self._writing is not None and self._writing.done():
            await self.written()
        every = self._config.train.checkpoint_every
        due = bool(every) and self.step % every == 0
        if due:
            await self._checkpoint()
        return due

    async def written(self) -> None:
        """Wait until the checkpoint that is under way is whole."""
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing

    async def close(self) -> None:
        """Leave the checkpoint that is under way as it is: unfinished, and never read.

        What the driver itself is writing of one comes to its end first, lest it end up behind the
        back of the attempt that follows.
        """
        if self._writing is not None:
            self._writing.cancel()
        await asyncio.to_thread(self._disk.shutdown)

    async def save_model(self) -> None:
        """Write the trained policy as an ordinary Hugging Face folder, ``model/``."""
        await self._learners.save_model(str(self._folder.path / "model"))

    async def _checkpoint(self) -> None:
        began = time.perf_counter()
        await self.written()
        folder = await self._beside(self._checkpoints.begin, self.step)
        await self._learners.save_checkpoint(str(folder / "learner"))
        delay = time.perf_counter() - began
        state = {"stream": self._stream_state, "measured": dict(self.measured)}
        writing = self._finish(folder, self.step, state, delay)
        self._writing = asyncio.create_task(writing)

    async def _finish(
        self, folder: Folder, step: int, state: dict[str, Any], delay_s: float
    ) -> None:
        began = time.perf_counter()
        files = await self._beside(self._checkpoints.describe, folder, self._config.model)
        learner = await self._learners.written_checkpoint()
        files |= {f"learner/{name}": known for name, known in learner.items()}
        await self._beside(self._checkpoints.finish, folder, step, state, self._config, files)
        await self._beside(self._keep)
        seconds = time.perf_counter() - began
        self._telemetry.checkpoint(step, delay_s, seconds, sum(f.bytes for f in files.values()))

    async def _beside(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """What waits for the disk, beside the training; one after the other."""
        return await asyncio.get_running_loop().run_in_executor(self._disk, call, *arguments)

    def _keep(self) -> None:
        self._checkpoints.keep(self._config.train.keep_checkpoints, self._best_step())

    def _best_step(self) -> int | None:
        """The step of the checkpoint with the highest figure of ``train.keep_best``."""
        if (name := self._config.train.keep_best) is None:
            return None
        here = set(self._checkpoints.steps)
        rows = [row for row in self._folder.read_metrics() if row["step"] in here]
        figures = {row["step"]: row[name] for row in rows if row.get(name) is not None}
        return max(figures, key=lambda step: figures[step], default=None)


def resume_point(config: RunConfig) -> Checkpoint | None:
    """The checkpoint that ``train.resume`` names, read and compared with the configuration.

    Raises ConfigError if there is none where told, none is whole, or it is another run's.
    """
    asked = config.train.resume
    if asked is None:
        return None
    own = Checkpoints.of(config)
    found = own.newest_whole() if asked == "auto" else find_checkpoint(Folder.at(asked))
    if found is None:
        if asked == "auto":
            return None
        raise ConfigError(f"train.resume: no checkpoint in {asked}")
    print(f"train.resume: from {found.folder}, after step {found.step}.", flush=True)
    for key, (before, after) in found.changes(config).items():
        print(f"  {key}: {before} -> {after}", flush=True)
    return found
