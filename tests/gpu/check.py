"""The checks of this folder, one after the other, and a table of what came out.

    bash launch/check_gpu.sh

Every file has a process of its own, since an error on a GPU spoils the process for what follows.
Exit code: 0 all that could be tried works, 1 something does not, 2 nothing could be tried.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parent
FILES = ["machine", "attention", "engine", "speed", "training"]  # the longest last
LAST_START_S = 660.0  # no check begins later, and none takes longer than four minutes
LIMIT_S = 900.0

NAME = 52  # characters of a check's name in the table

Row = dict[str, str]


def rows_of(name: str, logs: Path, started: float) -> Iterator[Row]:
    """The rows of a file's checks, as they come."""
    rows, log = logs / f"{name}.jsonl", logs / f"{name}.log"
    rows.touch()
    environment = os.environ | {
        "RLVR_CHECK_ROWS": str(rows),
        "RLVR_CHECK_LOGS": str(logs),
        "RLVR_CHECK_LAST_START": str(started + LAST_START_S),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # the other suites'
    }
    file = str(FOLDER / f"test_{name}.py")
    options = ["--confcutdir", str(FOLDER), "-p", "no:cacheprovider"]  # theirs needs Ray
    with log.open("w") as output, rows.open() as lines:
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", file, *options],
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )
        try:
            while process.poll() is None and time.time() < started + LIMIT_S:
                yield from map(json.loads, lines)
                time.sleep(0.2)
        finally:
            late = process.poll() is None
            if late:
                end(process)
        yield from map(json.loads, lines)
    if late or process.returncode not in (0, 1):
        reason = "took too long" if late else f"ended with code {process.returncode}"
        yield {
            "check": f"test_{name}.py",
            "result": "FAILS",
            "told": reason,
            "remedy": f"see {log}",
        }


def end(process: subprocess.Popen) -> None:
    """An interrupt first, so that it ends the runs that it has started."""
    for number in (signal.SIGINT, signal.SIGKILL):
        os.killpg(process.pid, number)
        try:
            process.wait(40.0)
            return
        except subprocess.TimeoutExpired:
            pass


def line(row: Row) -> str:
    """A row of the table; what was told goes on below itself."""
    told = textwrap.wrap(row["told"], 64) or [""]
    first = f"{row['result']:<10} {row['check']:<{NAME}} {told[0]}"
    return "\n".join([first, *(" " * (NAME + 12) + rest for rest in told[1:])])


def main() -> int:
    started = time.time()
    logs = Path("outputs/check_gpu", time.strftime("%Y-%m-%d_%H-%M-%S")).resolve()
    logs.mkdir(parents=True)
    rows = []
    print(f"{'result':<10} {'check':<{NAME}} figures, or why not", flush=True)
    for name in FILES:
        for row in rows_of(name, logs, started):
            rows.append(row)
            print(line(row), flush=True)
    failed = [row for row in rows if row["result"] == "FAILS"]
    tried = [row for row in rows if row["result"] != "not tried"]
    untried = len(rows) - len(tried)
    counts = f"{len(tried) - len(failed)} work, {len(failed)} fail, {untried} could not be tried"
    print(f"\n{counts}; {time.time() - started:.0f} s. Logs: {logs}")
    for row in failed:
        print(f"\n{row['check']}: {row['told']}\n  What to do: {row['remedy']}")
    (logs / "table.json").write_text(json.dumps(rows, indent=1))
    return 1 if failed else 0 if tried else 2


if __name__ == "__main__":
    sys.exit(main())
