"""Where the time of a step goes."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass


def stages(row: Mapping[str, float | None]) -> dict[str, float | None]:
    """``{"step": 1.2, "rollout": 0.5, ...}``: a row's seconds by their stages."""
    return {k[len("time/") : -len("_s")]: v for k, v in row.items() if k.startswith("time/")}


@dataclass
class _Stage:
    seconds: float = 0.0
    running: int = 0  # how many are inside the stage at this moment
    since: float = 0.0  # when the stage was last found running

    def settle(self, now: float) -> None:
        self.seconds += (now - self.since) * bool(self.running)
        self.since = now


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
        stage.settle(self._clock())
        stage.running += 1
        try:
            yield
        finally:
            stage.settle(self._clock())
            stage.running -= 1

    def lap(self) -> dict[str, float]:
        """``time/step_s`` and the stages since the last lap, in order of first use."""
        now = self._clock()
        timings = {"time/step_s": now - self._lap}
        for name, stage in self._stages.items():
            stage.settle(now)
            if stage.seconds > 0:
                timings[f"time/{name}_s"] = stage.seconds
            stage.seconds = 0.0
        self._lap = now
        return timings
