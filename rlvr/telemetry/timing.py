"""Where the time of a step goes."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

_RECENT = 100  # laps


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
        self._past: dict[str, deque[float]] = {}  # a stage's seconds in recent laps
        self.laps = 0

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
                self._past.setdefault(name, deque(maxlen=_RECENT)).append(stage.seconds)
            stage.seconds = 0.0
        self._lap = now
        self.laps += 1
        return timings

    def running(self) -> list[tuple[str, float, float | None]]:
        """The stages under way: name, seconds in this lap, median of recent laps (None: none yet).

        Another thread may ask.
        """
        now = self._clock()
        return [
            (name, stage.seconds + now - stage.since, median(past) if past else None)
            for name, stage in list(self._stages.items())
            if stage.running
            for past in [list(self._past.get(name, ()))]
        ]
