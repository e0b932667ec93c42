"""Phases: what is slow says so while it is under way."""

import threading
import time
from types import TracebackType
from typing import Any, Self

from rlvr.telemetry import display


class Phase:
    """Shows that something slow is under way: ``starting rollout worker 1/2 ... 3.1 s``.

    A phase that ends within ``quiet_s`` prints nothing, unless it failed. Phases may overlap.
    """

    def __init__(self, name: str, quiet_s: float = 1.0) -> None:
        self.name = name
        self.quiet_s = quiet_s
        self._announcer = threading.Timer(quiet_s, self._announce)
        self._announcer.daemon = True
        self._announcer.name = f"phase {name}"
        self._shown = False
        self._started = 0.0

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        self._announcer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        elapsed = time.perf_counter() - self._started
        self._announcer.cancel()
        self._announcer.join()
        if self._shown:
            display.hide(self._line)
        if kind is not None:
            what = "failed" if issubclass(kind, Exception) else "stopped"
            print(f"{self.name} ... {what} after {elapsed:.1f} s", flush=True)
        elif elapsed >= self.quiet_s:
            print(f"{self.name} ... {elapsed:.1f} s", flush=True)

    def _announce(self) -> None:
        if display.possible():
            display.show(self._line)
            self._shown = True
        else:
            print(f"{self.name} ...", flush=True)

    def _line(self, width: int) -> Any:
        return display.row(f"{self.name} ... {time.perf_counter() - self._started:.0f} s")
