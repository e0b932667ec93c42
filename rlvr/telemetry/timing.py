"""Where the time of a step goes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class _Stage:
    seconds: float = 0.0
    running: int = 0  # how many are inside the stage at this moment
    since: float = 0.0  # when the stage was last found running


class Stopwatch:
    """Seconds per stage between one ``lap`` and the next.

    Stages may overlap. A stage that several tasks are in at once counts once, so no stage is
    longer than the lap; one that runs across a lap gives each lap its own part.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._stages: dict[str, _Stage] = {}
        self._lap = clock()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the block's duration as ``time/<name>_s``."""
        stage = self._stages.setdefault(name, _Stage())
        self._settle(stage, self._clock())
        stage.running += 1
        try:
            yield
        finally:
            self._settle(stage, self._clock())
            stage.running -= 1

    def lap(self) -> dict[str, float]:
        """``time/step_s`` and the stages since the last lap, in order of first use."""
        now = self._clock()
        timings = {"time/step_s": now - self._lap}
        for name, stage in self._stages.items():
            self._settle(stage, now)
            if stage.seconds > 0:
                timings[f"time/{name}_s"] = stage.seconds
            stage.seconds = 0.0
        self._lap = now
        return timings

    @staticmethod
    def _settle(stage: _Stage, now: float) -> None:
        if stage.running:
            stage.seconds += now - stage.since
        stage.since = now
