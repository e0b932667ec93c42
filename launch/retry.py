"""``python launch/retry.py TIMES COMMAND ...``: start a run again when it is lost.

COMMAND is started up to TIMES times more, with ``train.resume=auto``, when it was killed or has
failed. Not when it has come to its end, was interrupted (130), or its configuration cannot run (2),
which it would say again. The exit code is that of the last one, 128 + n after signal n.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from types import FrameType

FOR_GOOD = (0, 2, 130)
RESUME = "train.resume=auto"
_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    times, command = int(arguments[0]), arguments[1:]
    stopping = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        if number == signal.SIGTERM:  # of Ctrl-C, and of a job's stop, the run knows by itself
            process.terminate()

    for restarts in range(times + 1):
        process = subprocess.Popen(command, preexec_fn=_dies_with_this_process)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        code = process.wait()
        if stopping or code in FOR_GOOD or restarts == times:
            break
        how = f"was killed by signal {-code}" if code < 0 else f"has failed with status {code}"
        told = f"({restarts + 1} of {times})"
        print(f"retry: the run {how}. It goes on from its last checkpoint {told}.", flush=True)
        command = [*(word for word in command if word != RESUME), RESUME]
    return code if code >= 0 else 128 - code


def _dies_with_this_process() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
