"""What the threads of a process are doing, told also while they are blocked.

A process listens (``Listener.begin``); whoever may read its ``/proc`` then asks, by a signal.
"""

import faulthandler
import os
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SIGNAL = signal.SIGUSR2
_ANSWER_S = 2.0  # a process that has not begun to answer by then does not
_QUIET_S = 0.2  # an answer that stands still for so long is whole
_PY_SPY_S = 10.0

GONE = "State: gone"

_files: list[Any] = []  # of this process; faulthandler needs it open


@dataclass(frozen=True)
class Listener:
    """A process that tells its stacks when it is asked. Its file has no name on any disk."""

    pid: int
    descriptor: int

    @classmethod
    def begin(cls) -> "Listener":
        """This process listens from now on; faulthandler answers, in C, whatever holds the GIL."""
        if not _files:
            _files.append(tempfile.TemporaryFile())
            faulthandler.register(_SIGNAL, file=_files[0], all_threads=True)
        return cls(os.getpid(), _files[0].fileno())

    def ask(self) -> str:
        """Its state and the stacks of its threads; in place of them why there are none.

        From the same machine, by the same user.
        """
        file = Path(f"/proc/{self.pid}/fd/{self.descriptor}")
        try:
            if "(deleted)" not in os.readlink(file):  # the signal would kill who does not listen
                return GONE
            before = file.stat().st_size
            os.kill(self.pid, _SIGNAL)
            told = self._read(file, before) or f"no answer within {_ANSWER_S:g} s"
            return f"{self._state()}\n{told}\n{self._py_spy()}".rstrip()
        except OSError:
            return GONE

    def _state(self) -> str:
        """The line of ``/proc/PID/status``: ``State: S (sleeping)``."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(line.replace("\t", " ") for line in lines if line.startswith("State:"))

    def _read(self, file: Path, before: int) -> str:
        size, began, grew = before, time.monotonic(), 0.0
        while time.monotonic() - (grew or began) < (_QUIET_S if grew else _ANSWER_S):
            time.sleep(0.02)
            if (now := file.stat().st_size) > size:
                size, grew = now, time.monotonic()
        with file.open("rb") as stream:
            stream.seek(before)
            return stream.read().decode(errors="replace")

    def _py_spy(self) -> str:
        """What py-spy sees, C++ frames and child processes included; nothing where it may not."""
        if (program := shutil.which("py-spy")) is None:
            return ""
        command = [program, "dump", "--native", "--subprocesses", "--pid", str(self.pid)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_PY_SPY_S)
        except subprocess.TimeoutExpired:
            return ""
        return f"\npy-spy:\n{done.stdout}" if done.returncode == 0 else ""


def own() -> str:
    """The stacks of this process."""
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read().decode(errors="replace")
