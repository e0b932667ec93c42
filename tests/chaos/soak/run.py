"""The run that is disturbed: a child process again and again, its log, its processes."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from rlvr.telemetry.run_folder import RunFolder
from tests.chaos.soak import plugins

ROOT = Path(__file__).parents[3]
EVERY = 5  # steps from one evaluation to the next

COMMAND = [
    *(sys.executable, "-m", "rlvr.train", "+recipe=quickstart", "rollout.workers=2"),
    *(f"evaluation.every={EVERY}", "evaluation.samples=0", "evaluation.at_end=false"),
    *("telemetry.wandb=disabled", "telemetry.progress=false"),
]
# What it takes to outlive the faults, and to fail on order.
DISTURBED = [
    *("train.resume=auto", "train.checkpoint_every=3", "train.steps=1000000"),
    *("train.max_restarts=1000000", "rollout.max_replacements=1000000"),
    *("rollout.stall_timeout_s=15", "rollout.start_timeout_s=300", "weights.timeout_s=30"),
    *("learner.step_timeout_s=120", "learner.init_timeout_s=300"),
    "advantage=tests.chaos.soak.plugins",
    "+rollout.engine.logits_processors=[tests.chaos.soak.plugins:Raises]",
]
_PR_SET_CHILD_SUBREAPER = 36
AGENTS = "Ray's agent"
_STEP = re.compile(r"^step +(\d+)/", re.MULTILINE)


@dataclass(frozen=True)
class Step:
    """A line of the log."""

    at: float  # seconds, of the clock
    number: int
    leg: int  # how often the driver has been started, then


class Run:
    """A training run that goes on in a new process when its driver has ended.

    Whatever it leaves behind becomes a child of this process.
    """

    def __init__(self, folder: Path, overrides: list[str]) -> None:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.folder = RunFolder(folder / "run")
        self.orders = folder / "orders"
        self.orders.mkdir(parents=True)
        self.log = folder / "log.txt"
        self.legs = 0
        self.began = 0.0  # of this leg, by the clock
        self.steps: list[Step] = []
        self.damaged: list[str] = []  # checkpoints
        self.not_finite = 0  # batches that were ordered
        self.overrides = overrides
        self._command = [*DISTURBED, f"train.output_dir={self.folder.path}", *overrides]
        self._read = 0
        self._words = 0  # where in the log this leg's part begins
        self.child: subprocess.Popen[bytes]

    def start(self, *overrides: str) -> None:
        self.began = time.monotonic()
        self._words = self.log.stat().st_size if self.log.exists() else 0
        self.legs += 1
        environment = os.environ | {plugins.ORDERS: str(self.orders), "PYTHONPATH": str(ROOT)}
        environment.pop("RAY_ADDRESS", None)
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                [*COMMAND, *self._command, *overrides],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # signals reach it alone
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    def look(self) -> None:
        """Read what the log has got since the last time."""
        with self.log.open("rb") as file:
            file.seek(self._read)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._read += len(whole + newline)
        found = _STEP.findall(whole.decode(errors="replace"))
        self.steps += [Step(time.monotonic(), int(number), self.legs) for number in found]

    def words(self) -> str:
        """What this leg has printed."""
        with self.log.open("rb") as file:
            file.seek(self._words)
            return file.read().decode(errors="replace")

    @property
    def trains(self) -> bool:
        """Whether this leg has made a step."""
        return bool(self.steps) and self.steps[-1].leg == self.legs

    def processes(self) -> dict[str, list[psutil.Process]]:
        """All that live, by their kind, in the order in which they were created."""
        found: dict[str, list[psutil.Process]] = {}
        for process in psutil.Process().children(recursive=True):
            try:
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.setdefault(self._kind(process), []).append(process)
                elif process.pid != self.child.pid and process.ppid() == os.getpid():
                    os.waitpid(process.pid, 0)
            except (psutil.NoSuchProcess, ChildProcessError):
                continue
        for own in found.values():
            own.sort(key=lambda process: (process.create_time(), process.pid))
        return found

    def _kind(self, process: psutil.Process) -> str:
        if process.pid == self.child.pid:
            return "driver"
        words = " ".join(process.cmdline())
        return next((kind for sign, kind in _KINDS.items() if sign in words), "other")

    def left_after(self, limit_s: float, agents: bool = False) -> tuple[float, list[str]]:
        """Wait for all processes to be gone; the seconds that it took, and who is not.

        Without ``agents`` not for those of Ray that first want to tell the head, which is gone.
        """
        began, waived = time.monotonic(), () if agents else (AGENTS,)
        while True:
            living = {k: own for k, own in self.processes().items() if k not in waived}
            if not living or time.monotonic() >= began + limit_s:
                break
            time.sleep(0.05)
        left = [f"{kind} {process}" for kind, own in living.items() for process in own]
        return time.monotonic() - began, left

    def kill(self) -> None:
        """End everything, whatever it does."""
        for own in self.processes().values():
            for process in own:
                process.kill()
        self.child.wait()


_KINDS = {
    "ray::LearnerWorker": "learner rank",
    "ray::RolloutWorker": "rollout worker",
    "ray::Fleet": "verifier actor",
    "rlvr.verify.workers.worker": "verifier process",
    "gcs_server": "Ray's GCS",
    "raylet/raylet": "raylet",
    "ray::DashboardAgent": AGENTS,
    "ray::RuntimeEnvAgent": AGENTS,
}
