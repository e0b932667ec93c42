"""Where a run stands: the step, the place in the data, and checkpoints of both."""

import asyncio
import time
from pathlib import Path
from typing import Any

from rlvr.config import RunConfig
from rlvr.data.stream import PromptStream
from rlvr.errors import ConfigError
from rlvr.learner.group import LearnerGroup
from rlvr.learner.model_folder import describe
from rlvr.loop.batch import RolloutBatch
from rlvr.loop.checkpoint import Checkpoint, Checkpoints, find_checkpoint
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
        self._checkpoints = Checkpoints(self._folder.checkpoints)
        self._stream_state: dict[str, Any] = stream.state()
        self._writing: asyncio.Task[None] | None = None
        self.step = 0

    def advance(self, batch: RolloutBatch) -> None:
        self.step = batch.step + 1
        self._stream_state = batch.stream_state

    async def restore(self, checkpoint: Checkpoint) -> None:
        """Bring the learners to where ``checkpoint`` was taken; the stream is there already."""
        self.step = checkpoint.step
        await self._learners.load_checkpoint(str(checkpoint.learner))

    async def checkpoint_if_due(self) -> None:
        """Begin one where it is due. Raises what went wrong with the last one."""
        if self._writing is not None and self._writing.done():
            await self.written()
        every = self._config.train.checkpoint_every
        if every and self.step % every == 0:
            await self._checkpoint()

    async def written(self) -> None:
        """Wait until the checkpoint that is under way is whole."""
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing

    def close(self) -> None:
        """Leave the checkpoint that is under way as it is: unfinished, and never read."""
        if self._writing is not None:
            self._writing.cancel()

    async def save_model(self) -> None:
        """Write the trained policy as an ordinary Hugging Face folder, ``model/``."""
        await self._learners.save_model(str(self._folder.path / "model"))

    async def _checkpoint(self) -> None:
        began = time.perf_counter()
        await self.written()
        partial = self._checkpoints.begin(self.step)
        await self._learners.save_checkpoint(str(partial / "learner"))
        delay = time.perf_counter() - began
        writing = self._finish(partial, self.step, {"stream": self._stream_state}, delay)
        self._writing = asyncio.create_task(writing)

    async def _finish(
        self, partial: Path, step: int, state: dict[str, Any], delay_s: float
    ) -> None:
        began = time.perf_counter()
        await asyncio.to_thread(describe, self._config.model, partial / "model")
        files = await self._learners.written_checkpoint()
        finish = self._checkpoints.finish
        await asyncio.to_thread(finish, partial, step, state, self._config, files)
        await asyncio.to_thread(
            self._checkpoints.keep, self._config.train.keep_checkpoints, self._best_step()
        )
        seconds = time.perf_counter() - began
        self._telemetry.checkpoint(step, delay_s, seconds, sum(f.bytes for f in files.values()))

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
    folder = Path(config.train.output_dir if asked == "auto" else asked).resolve()
    found = find_checkpoint(folder)
    if found is None:
        if asked == "auto":
            return None
        raise ConfigError(f"train.resume: no checkpoint in {folder / 'checkpoints'}")
    print(f"train.resume: from {found.path}, after step {found.step}.", flush=True)
    for key, (before, after) in found.changes(config).items():
        print(f"  {key}: {before} -> {after}", flush=True)
    return found
