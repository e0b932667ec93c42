"""A training run as a child process, known by what it prints."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

SLOW_S = 300.0  # engines and ranks start beside each other, on whatever cores there are


class Run:
    """``process`` prints to ``log``; what it is waited for fails the test when it does not come."""

    def __init__(self, process: subprocess.Popen, log: Path) -> None:
        self.process = process
        self._log = log

    def text(self) -> str:
        return self._log.read_text()

    def steps(self) -> int:
        return max(map(int, re.findall(r"^step +(\d+)/", self.text(), re.M)), default=0)

    def until(self, happened: Callable[[], object], within_s: float = SLOW_S) -> None:
        limit = time.monotonic() + within_s
        while not happened():
            assert self.process.poll() is None, self.text()[-3000:]
            assert time.monotonic() < limit, self.text()[-3000:]
            time.sleep(0.1)

    def goes_on(self, steps: int, within_s: float = SLOW_S) -> None:
        reached = self.steps() + steps
        self.until(lambda: self.steps() >= reached, within_s)

    def tells(self, words: str, within_s: float = SLOW_S) -> str:
        """The words that a regular expression finds."""
        self.until(lambda: re.search(words, self.text(), re.M), within_s)
        return re.search(words, self.text(), re.M)[0]
