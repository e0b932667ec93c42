"""Whether the memory of processes that live long goes on growing."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

_PERIOD_S = 5.0
_SETTLED_S = 60.0  # what a process takes before then is its start
_LEAST_S = 180.0  # of what is judged
_NOISE = 0.02, 8.0  # of what it has, and MiB: so much two moments of a process differ anyhow
# An engine that does the other's work as well has larger batches, and keeps the room for them: from
# 1,800 MiB beside another it came to 1,970 when that one had died six times, and stood there.
_RISE = {"rollout worker": 0.1}


@dataclass(frozen=True)
class Life:
    """One process's own memory, [n] each: seconds from its start, MiB that no other shares."""

    at: np.ndarray
    mib: np.ndarray
    rise: float = 0.0  # of what it has: so much it may once have more

    @property
    def long(self) -> bool:
        return bool(self.at[-1] - self.at[0] >= _LEAST_S)

    @property
    def slope(self) -> float:
        """MiB a minute, the median from one look to the next: single jumps do not count."""
        return float(60 * np.median(np.diff(self.mib) / np.diff(self.at)))

    @property
    def grows(self) -> bool:
        """Whether at that slope all the time, or from its second third to the last.

        The first third may be a start still: an engine's memory stands after two minutes of an
        undisturbed run on two free cores, and later on busy ones.
        """
        share, least = _NOISE
        noise = max(share * float(np.median(self.mib)), least)
        _, middle, last = np.array_split(self.mib, 3)
        risen = np.median(last) - np.median(middle)
        steadily = self.slope * (self.at[-1] - self.at[0]) / 60
        return bool(steadily > noise or risen > max(noise, self.rise * self.mib[-1]))


class Memory:
    """Looks at all processes of a run every few seconds."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int, float], list[tuple[float, float]]] = defaultdict(list)
        self._last = 0.0

    def look(self, processes: dict[str, list[psutil.Process]]) -> None:
        self._last = time.monotonic()
        for kind, own in processes.items():
            for process in own:
                try:
                    born, used = process.create_time(), process.memory_full_info().uss / 2**20
                except psutil.Error:  # it has just ended
                    continue
                if (age := time.time() - born) >= _SETTLED_S:
                    self._found[kind, process.pid, born].append((age, used))

    def save(self, file: Path) -> None:
        """What was seen of every process: its age in seconds and its MiB, at each moment."""
        seen = [[kind, pid, points] for (kind, pid, _), points in self._found.items()]
        file.write_text(json.dumps(seen))

    @property
    def due(self) -> bool:
        return time.monotonic() - self._last >= _PERIOD_S

    def lives(self) -> dict[str, list[Life]]:
        """Those that can be judged, by kind."""
        lives: dict[str, list[Life]] = defaultdict(list)
        for (kind, _, _), points in self._found.items():
            life = Life(*np.array(points).T, rise=_RISE.get(kind, 0.0))
            if life.long:
                lives[kind].append(life)
        return lives
