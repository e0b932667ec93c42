"""Phases: what is slow says so while it is under way."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rlvr.telemetry import display


@contextmanager
def phase(name: str, quiet_s: float = 1.0) -> Iterator[None]:
    """Show that something slow is under way: ``starting rollout worker 1/2 ... 3.1 s``.

    A phase that ends within ``quiet_s`` prints nothing, unless it failed. Phases may overlap.
    """
    started, shown = time.perf_counter(), threading.Event()

    def line(width: int) -> Any:
        return display.row(f"{name} ... {time.perf_counter() - started:.0f} s")

    def announce() -> None:
        if display.possible():
            display.show(line)
            shown.set()
        else:
            print(f"{name} ...", flush=True)

    announcer = threading.Timer(quiet_s, announce)
    announcer.daemon, announcer.name = True, f"phase {name}"
    announcer.start()
    ending = ""
    try:
        yield
    except BaseException as error:
        ending = "failed after " if isinstance(error, Exception) else "stopped after "
        raise
    finally:
        elapsed = time.perf_counter() - started
        announcer.cancel()
        announcer.join()
        if shown.is_set():
            display.hide(line)
        if ending or elapsed >= quiet_s:
            print(f"{name} ... {ending}{elapsed:.1f} s", flush=True)
