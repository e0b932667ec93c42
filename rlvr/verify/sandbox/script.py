"""One run of a script in the sandbox: what it printed, and how it ended."""

import signal
import time
from dataclasses import dataclass

from rlvr.config import CodeConfig
from rlvr.errors import SandboxError
from rlvr.verify.forkserver import ended
from rlvr.verify.sandbox import server, syscalls
from rlvr.verify.sandbox.inside.plain import NotPlain
from rlvr.verify.sandbox.sandbox import Sandbox


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
    try:
        return _run(program, stdin, limits)
    except SandboxError:
        server.end(limits.sandbox)
        return _run(program, stdin, limits)


def _run(program: str, stdin: str, limits: CodeConfig) -> Ran:
    start = time.monotonic()
    with Sandbox("host", limits, start + limits.wall_s) as box:
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
    try:
        box.receive()
    except EOFError:
        raise SandboxError(f"the sandbox does not start: {box.server.last_words()}") from None
    box.send({"program": program, "call": False, "filter": syscalls.compiled()})
    match box.receive():
        case ["unparseable" | "failed", str(why)]:
            return Ran("", why)
    box.write(stdin.encode("utf-8", "surrogatepass"))
    match box.receive():
        case [int(status), float(seconds)]:
            stdout, stderr = (part.decode("utf-8", "replace") for part in (box.read(), box.read()))
        case _:
            raise NotPlain("not what the sandbox says")
    if status == signal.SIGKILL and seconds >= box.limits.cpu_s - 0.5:
        return Ran(stdout, f"it needs more than {box.limits.cpu_s} s of processor time")
    if status:
        words = stderr.strip().rpartition("\n")[2]
        return Ran(stdout, f"{ended(status)} {words}".strip())
    return Ran(stdout)
