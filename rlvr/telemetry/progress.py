"""What a run shows while it goes: a line per step, a bar with the time left, slow phases.

Bars are for terminals only. While one is up, whatever is printed appears above it.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, TextIO

from tqdm import tqdm

from rlvr.telemetry.step_line import stage_times, step_line


class Progress:
    """Steps done and time left."""

    def __init__(self, total: int, done: int = 0, bar: bool = True) -> None:
        """Expect ``total`` steps, ``done`` of which an earlier run has made."""
        self._total = total
        self._first = done
        self._started = time.perf_counter()
        self._bar = None
        if bar and sys.stderr.isatty():
            self._bar = _open_bar(total=total, initial=done, desc="train", unit=" step")

    def advance(self, step: int, row: Mapping[str, float]) -> None:
        """Print the line of a finished step and move the bar."""
        width = shutil.get_terminal_size((0, 0)).columns if sys.stdout.isatty() else 0
        if self._bar is None:
            elapsed = time.perf_counter() - self._started
            left = elapsed / (step - self._first) * (self._total - step)
            print(step_line(step, self._total, row, width=width, eta_s=left), flush=True)
        else:
            print(step_line(step, self._total, row, width=width), flush=True)
            self._bar.set_postfix_str(stage_times(row), refresh=False)
            self._bar.update(step - self._bar.n)
            self._bar.refresh()

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            _close_bar(self._bar)
            self._bar = None


class Phase:
    """Shows that something slow is under way: ``starting rollout worker 1/2 ... 3.1 s``.

    A phase that ends within ``quiet_s`` prints nothing, unless it failed. Phases may overlap.
    """

    def __init__(self, name: str, quiet_s: float = 1.0) -> None:
        """Name what is going on."""
        self.name = name
        self.quiet_s = quiet_s
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name=f"phase {name}", daemon=True)
        self._started = 0.0

    def __enter__(self) -> Phase:
        """Start the clock."""
        self._started = time.perf_counter()
        self._watcher.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Print how long it took."""
        elapsed = time.perf_counter() - self._started
        self._ended.set()
        self._watcher.join()
        if kind is not None:
            what = "failed" if issubclass(kind, Exception) else "stopped"
            print(f"{self.name} ... {what} after {elapsed:.1f} s", flush=True)
        elif elapsed >= self.quiet_s:
            print(f"{self.name} ... {elapsed:.1f} s", flush=True)

    def _watch(self) -> None:
        if self._ended.wait(self.quiet_s):
            return
        if not sys.stderr.isatty():
            print(f"{self.name} ...", flush=True)
            return
        bar = _open_bar(bar_format="{desc}", leave=False)
        while True:
            elapsed = time.perf_counter() - self._started
            bar.set_description_str(f"{self.name} ... {elapsed:.0f} s")
            if self._ended.wait(0.5):
                break
        _close_bar(bar)


class _AboveBars:
    """Stands for a standard stream while bars are up: whole lines go out above them."""

    def __init__(self, stream: TextIO, bars: TextIO) -> None:
        self._stream = stream
        self._bars = bars
        self._rest = ""

    def write(self, text: str) -> int:
        with tqdm.get_lock():
            lines, newline, self._rest = (self._rest + text).rpartition("\n")
            if newline:
                self._put(lines + newline)
        return len(text)

    def finish(self) -> None:
        """Write what is left of a line."""
        with tqdm.get_lock():
            self._put(self._rest)
            self._rest = ""

    def _put(self, text: str) -> None:
        with tqdm.external_write_mode(file=self._bars):
            self._stream.write(text)
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


_streams: tuple[TextIO, TextIO] | None = None  # the real stdout and stderr, while bars are up
_bars = 0


def _open_bar(**options: Any) -> tqdm:
    global _streams, _bars
    with tqdm.get_lock():
        if _streams is None:
            _streams = sys.stdout, sys.stderr
            sys.stdout, sys.stderr = (_AboveBars(s, _streams[1]) for s in _streams)
        _bars += 1
        return tqdm(file=_streams[1], dynamic_ncols=True, **options)


def _close_bar(bar: tqdm) -> None:
    global _streams, _bars
    with tqdm.get_lock():
        bar.close()
        bar.fp.write("\r")  # tqdm leaves the cursor where a bar below others ended
        bar.fp.flush()
        _bars -= 1
        if _bars == 0 and _streams is not None:
            for name, real in zip(("stdout", "stderr"), _streams, strict=True):
                ours = getattr(sys, name)
                if isinstance(ours, _AboveBars):  # else somebody else's now, not ours to restore
                    ours.finish()
                    setattr(sys, name, real)
            _streams = None
