"""Where a run stands: the step, the place in the data, and checkpoints of both."""

import json
import shutil
from pathlib import Path
from typing import Any

from rlvr.config import RunConfig
from rlvr.data.stream import PromptStream
from rlvr.errors import ConfigError, RunFolderError
from rlvr.learner.group import LearnerGroup
from rlvr.loop.batch import RolloutBatch

_LATEST = "latest"


class RunState:
    """The step counter and the checkpoints of a run.

    A checkpoint is a folder that appears under its final name only when it is whole; ``latest``
    names the newest. The stream gives out again what was under way, with the same seeds, so a
    resumed run sees the groups that the interrupted one would have seen.
    """

    def __init__(self, config: RunConfig, stream: PromptStream, learners: LearnerGroup) -> None:
        self._config = config
        self._stream = stream
        self._learners = learners
        self._folder = Path(config.train.output_dir).resolve() / "checkpoints"
        self._stream_state: dict[str, Any] = stream.state()
        self.step = 0

    def advance(self, batch: RolloutBatch) -> None:
        self.step = batch.step + 1
        self._stream_state = batch.stream_state

    async def resume(self) -> None:
        """Go on from ``train.resume`` if it is set."""
        if (found := resume_point(self._config)) is None:
            return
        folder, state = found
        self._stream.restore(state["stream"])
        self._stream_state = state["stream"]
        self.step = state["step"]
        await self._learners.load_checkpoint(str(folder / "learner"))

    async def checkpoint_if_due(self) -> None:
        every = self._config.train.checkpoint_every
        if every and self.step % every == 0:
            await self._checkpoint()

    async def save_model(self) -> None:
        """Write the trained policy as an ordinary Hugging Face folder, ``model/``."""
        target = Path(self._config.train.output_dir).resolve() / "model"
        await self._learners.save_model(str(target))

    async def _checkpoint(self) -> None:
        name = f"step_{self.step:06d}"
        partial, whole = self._folder / f"{name}.partial", self._folder / name
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "learner").mkdir(parents=True)
        await self._learners.save_checkpoint(str(partial / "learner"))
        state = {"step": self.step, "stream": self._stream_state}
        (partial / "run.json").write_text(json.dumps(state))
        shutil.rmtree(whole, ignore_errors=True)
        partial.rename(whole)
        pointer = self._folder / f"{_LATEST}.partial"
        pointer.write_text(name)
        pointer.rename(self._folder / _LATEST)
        kept = sorted(p for p in self._folder.glob("step_*") if p.suffix != ".partial")
        for old in kept[: -self._config.train.keep_checkpoints]:
            shutil.rmtree(old)


def resume_point(config: RunConfig) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint that ``train.resume`` names, and its ``run.json``.

    Raises ConfigError if there is none where told, or it is damaged.
    """
    asked = config.train.resume
    if asked is None:
        return None
    run = config.train.output_dir if asked == "auto" else asked
    root = Path(run).resolve() / "checkpoints"
    if not (root / _LATEST).exists():
        if asked == "auto":
            return None
        raise ConfigError(f"train.resume: no checkpoint in {root}")
    folder = root / (root / _LATEST).read_text().strip()
    try:
        state = json.loads((folder / "run.json").read_text())
        if not {"step", "stream"} <= set(state):
            raise ValueError("it lacks the step or the stream")
    except (OSError, ValueError, TypeError) as error:
        raise RunFolderError(
            f"train.resume: {folder / 'run.json'} is missing or damaged ({error}). Write the name "
            f"of another checkpoint there into {root / _LATEST}, or start a new run."
        ) from error
    return folder, state
