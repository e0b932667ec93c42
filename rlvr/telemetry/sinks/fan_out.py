"""Every sink of a run, none of which can break it."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

from rlvr.errors import ConfigError, RunError
from rlvr.telemetry.run_folder import RunFolder
from rlvr.telemetry.sinks.base import Sink, why


class FanOut:
    """Tells every sink; the first error of one is reported once and turns it off."""

    def __init__(self, sinks: Mapping[str, Sink]) -> None:
        self._sinks = dict(sinks)
        self._begun: list[str] = []
        self._off: set[str] = set()

    def start(self, folder: RunFolder, config: Mapping[str, Any], step: int) -> None:
        self._advice = f"{folder.metrics} has every metric."
        for name in self._sinks:
            self._begun.append(name)
            self._guarded(name, lambda sink: sink.start(folder, config, step))

    def tell(self, call: Callable[[Sink], None]) -> None:
        """``tell(lambda sink: sink.log(row))``."""
        for name in self._begun:
            if name not in self._off:
                self._guarded(name, call)

    def close(self, finished: bool) -> None:
        """Close what was begun, also after an error of its own."""
        while self._begun:
            self._guarded(self._begun.pop(0), lambda sink: sink.close(finished))

    def _guarded(self, name: str, call: Callable[[Sink], None]) -> None:
        try:
            call(self._sinks[name])
        except (ConfigError, RunError):
            raise
        except Exception as error:
            if name not in self._off:
                off = f"{name}: turned off after an error, training goes on ({why(error)})."
                print(off, self._advice, file=sys.stderr, flush=True)
            self._off.add(name)
