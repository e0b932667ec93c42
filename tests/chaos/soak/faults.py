"""How each fault is done to a run."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import psutil

from rlvr.errors import RunFolderError
from rlvr.loop.checkpoint import Checkpoint
from rlvr.loop.checkpoints import Checkpoints
from rlvr.storage import Folder
from tests.chaos.soak import plugins
from tests.chaos.soak.run import Run
from tests.chaos.soak.schedule import Fault

Do = Callable[[Run, Fault], str | None]  # what was done to whom; None: there is no victim yet
PAUSE_S = 10.0
DAMAGE = "driver killed, checkpoint damaged"
HEAD = "Ray's head killed"


def _sent(number: int, kind: str) -> Do:
    def send(run: Run, fault: Fault) -> str | None:
        if not (victims := run.processes().get(kind)):
            return None
        os.kill((victim := fault.pick(victims)).pid, number)
        return f"{kind} {victim.pid}"

    return send


def _engine_raises(run: Run, fault: Fault) -> str | None:
    if not (victims := run.processes().get("rollout worker")):
        return None
    pid = fault.pick(victims).pid
    (run.orders / plugins.raising(pid)).touch()
    return f"rollout worker {pid}"


def _rank_stopped(run: Run, fault: Fault) -> str | None:
    if not (victims := run.processes().get("learner rank")):
        return None
    victim = fault.pick(victims)
    victim.suspend()
    threading.Timer(PAUSE_S, _resume, [victim]).start()
    return f"learner rank {victim.pid}"


def _resume(process: psutil.Process) -> None:
    try:
        process.resume()
    except psutil.NoSuchProcess:  # another fault was faster
        pass


def _not_finite(run: Run, fault: Fault) -> str:
    (run.orders / plugins.NOT_FINITE).touch()
    return "an advantage"


def _driver_killed(run: Run, fault: Fault) -> str:
    run.child.kill()
    return f"driver {run.child.pid}"


def damage(run: Run, fault: Fault) -> str:
    """What has become of a file of the newest checkpoint, if there is a whole one before it."""
    whole = _whole(run)
    if len(whole) < 2:
        return "no checkpoint: there are not two that are whole"
    newest = whole[-1]
    file = fault.pick(sorted(path for path in newest.rglob("*") if path.is_file()))
    ways = [_truncated, _flipped, Path.unlink]
    way = ways[int(1e4 * fault.draw) % len(ways)]
    way(file)
    run.damaged.append(newest.name)
    return f"{file.relative_to(newest.parent)} {way.__name__.strip('_')}"


def _whole(run: Run) -> list[Path]:
    """The checkpoints, from old to new."""
    own, found = Checkpoints(Folder(str(run.folder.checkpoints))), []
    for step in own.steps:
        try:
            found.append(Path(Checkpoint.read(own.at(step)).folder.url))
        except RunFolderError:
            continue
    return found


def _truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


FAULTS: dict[str, Do] = {
    "rollout worker killed": _sent(signal.SIGKILL, "rollout worker"),
    "rollout worker stopped": _sent(signal.SIGSTOP, "rollout worker"),
    "engine raises": _engine_raises,
    "learner rank killed": _sent(signal.SIGKILL, "learner rank"),
    "learner rank stopped for 10 s": _rank_stopped,
    "verifier actor killed": _sent(signal.SIGKILL, "verifier actor"),
    "verifier process killed": _sent(signal.SIGKILL, "verifier process"),
    "batch not finite": _not_finite,
    HEAD: _sent(signal.SIGKILL, "Ray's GCS"),
    "driver killed": _driver_killed,
    DAMAGE: _driver_killed,
}
