"""What a run prints: a line per step and per evaluation, and a table at its end."""

import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any

from rlvr.telemetry import display, figures
from rlvr.telemetry.record import RunRecord, is_step
from rlvr.telemetry.run_folder import RunFolder
from rlvr.telemetry.sinks.base import Row, Sink
from rlvr.telemetry.step_line import stage_times, step_line
from rlvr.telemetry.table import comparison


class Console(Sink):
    """Prints lines; below them, on a terminal, stands a bar with the time left."""

    def __init__(self, bar: bool) -> None:
        self._wants_bar = bar
        self._bar: display.Bar | None = None

    def start(self, folder: RunFolder, config: Mapping[str, Any], step: int) -> None:
        self._folder = folder
        self._total = config["train"]["steps"]
        self._first = step
        self._started = time.perf_counter()
        if self._wants_bar and display.possible():
            self._bar = display.Bar("train", self._total, step)

    def log(self, row: Row) -> None:
        if is_step(row):
            self._step(row)
            return
        if "checkpoint/gb" in row:  # it was written beside the steps, and needs no line
            return
        results = [(k.split("/", 2), v) for k, v in row.items() if k.startswith("evaluation/")]
        shown = [f"{key} {figures.figure(key, value)}" for (_, _, key), value in results]
        line = "  ".join([results[0][0][1], *shown])
        print(f"evaluation after step {row['step']}: {line}", flush=True)

    def warn(self, step: int, name: str, words: str) -> None:
        print(f"step {step}: {name.replace('_', ' ').upper()}: {words}", flush=True)

    def summary(self, values: Row) -> None:
        print(f"\n{comparison([RunRecord.read(self._folder.path)])}\n", flush=True)

    def close(self, finished: bool) -> None:
        if self._bar is not None:
            self._bar.close()

    def _step(self, row: Row) -> None:
        step = row["step"]
        elapsed = time.perf_counter() - self._started
        left = elapsed / max(step - self._first, 1) * (self._total - step)
        width = shutil.get_terminal_size((0, 0)).columns if sys.stdout.isatty() else 0
        shown = left if self._bar is None else None
        print(step_line(step, self._total, row, width=width, eta_s=shown), flush=True)
        if self._bar is not None:
            self._bar.move(step, left, stage_times(row))
