"""The foot of a terminal: a bar, and slow phases, below whatever is printed."""

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from rlvr.telemetry import figures

_BAR = 40  # columns, at most

_lock = threading.Lock()
_shown: list[Callable[[int], Any]] = []  # of a width, each gives a line
_live: Any = None  # rich.live.Live, while there is something to show


def possible() -> bool:
    """Whether there is a terminal that can move its cursor."""
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def show(line: Callable[[int], Any]) -> None:
    """Show the line that ``line(columns)`` gives, a rich renderable, until it is hidden."""
    global _live
    from rich.console import Console, Group  # only a terminal pays for the import
    from rich.live import Live

    with _lock:
        _shown.append(line)
        if _live is None:
            console = Console(file=sys.stderr, soft_wrap=True)  # leave long lines alone
            _live = Live(
                console=console,
                get_renderable=lambda: Group(*(line(console.width) for line in list(_shown))),
                transient=True,
                redirect_stdout=sys.stdout.isatty(),
            )
            _live.start()
            console.show_cursor(True)  # rich hides it, and after a kill it would stay so
        _live.refresh()


def hide(line: Callable[[int], Any]) -> None:
    global _live
    with _lock:
        _shown.remove(line)
        if _shown:
            _live.refresh()
        else:
            _live.stop()
            _live = None


class Bar:
    """Steps done, time passed and time left."""

    def __init__(self, name: str, total: int, done: int) -> None:
        self._name, self._total, self._done = name, total, done
        self._started = time.perf_counter()
        self._left: float | None = None
        self._note = ""
        show(self._line)

    def move(self, done: int, left: float, note: str) -> None:
        self._done, self._left, self._note = done, left, note

    def close(self) -> None:
        hide(self._line)

    def _line(self, width: int) -> Any:
        from rich.progress_bar import ProgressBar

        head = f"{self._name} {self._done}/{self._total}"
        tail = figures.duration(time.perf_counter() - self._started)
        if self._left is not None:
            tail += f", {figures.duration(self._left)} left"
        if len(head) + len(tail) + len(self._note) + 16 <= width:
            tail += f"  {self._note}"
        room = max(min(_BAR, width - len(head) - len(tail) - 3), 1)
        bar = ProgressBar(total=self._total, completed=self._done, width=room)
        return row(head, bar, tail)


def row(*cells: Any) -> Any:
    """Cells beside each other, cut where the terminal ends."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 1))
    for _ in cells:
        grid.add_column(no_wrap=True, overflow="crop")
    grid.add_row(*cells)
    return grid
