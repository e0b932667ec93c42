"""A program in a sandbox: how it begins, and a run of a script, which says something and ends."""

import signal
from dataclasses import dataclass
from typing import Any

from rlvr.config import CodeConfig
from rlvr.errors import SandboxError
from rlvr.verify.forkserver import ended
from rlvr.verify.sandbox import server, syscalls
from rlvr.verify.sandbox.inside.plain import NotPlain
from rlvr.verify.sandbox.sandbox import Sandbox


def begin(box: Sandbox, program: str, *, call: bool) -> Any:
    """Give a new sandbox its program, to be run or called; what ``inside/host.py`` says to it.

    Raises SandboxError if the sandbox does not start.
    """
    try:
        box.receive()
    except EOFError:
        raise SandboxError(f"the sandbox does not start: {box.server.last_words()}") from None
    except TimeoutError:
        limit = f"{box.limits.wall_s:g} s"
        raise SandboxError(f"the sandbox does not start within {limit}") from None
    box.send({"program": program, "call": call, "filter": syscalls.compiled()})
    return box.receive()


@dataclass(frozen=True)
class Run:
    """How a run ended; ``overran`` is the processor time that it was killed for."""

    status: int
    overran: bool
    stdout: bytes
    stderr: bytes

    def problem(self, most: int | None = None) -> str:
        """How it ended, if not well, and the last line of its stderr up to ``most`` characters."""
        if not self.status:
            return ""
        words = self.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return f"{ended(self.status)} {words[:most]}"


def run(box: Sandbox, given: str) -> Run:
    """Run the script with ``given`` as its input."""
    box.write(given.encode("utf-8", "surrogatepass"))
    match box.receive():
        case [int(status), float(seconds)]:
            overran = status == signal.SIGKILL and seconds >= box.limits.cpu_s - 0.5
            return Run(status, overran, box.read(), box.read())
    raise NotPlain("not what the sandbox says")


@dataclass(frozen=True)
class Ran:
    """``problem`` is empty if the script came to its end with status 0."""

    stdout: str
    problem: str = ""

    @property
    def ended_well(self) -> bool:
        return not self.problem


def run_script(program: str, stdin: str, limits: CodeConfig) -> Ran:
    """Run ``program`` with ``stdin``. Raises SandboxError if the sandbox failed twice."""
    return server.retried(limits.sandbox, lambda: _ran(program, stdin, limits))


def _ran(program: str, stdin: str, limits: CodeConfig) -> Ran:
    with Sandbox("host", limits) as box:
        try:
            return _said(box, program, stdin)
        except TimeoutError:
            return Ran("", f"it needs more than {limits.wall_s:g} s")
        except (EOFError, BrokenPipeError):
            status = box.exit_status()
            return Ran("", "it ended its sandbox" if status is None else ended(status))
        except NotPlain as error:
            return Ran("", f"its output cannot be read: {error}")


def _said(box: Sandbox, program: str, stdin: str) -> Ran:
    match begin(box, program, call=False):
        case ["unparseable" | "failed", str(why)]:
            return Ran("", why)
    own = run(box, stdin)
    stdout = own.stdout.decode("utf-8", "replace")
    if own.overran:
        return Ran(stdout, f"it needs more than {box.limits.cpu_s} s of processor time")
    return Ran(stdout, own.problem().strip())
