"""One program, its tests and the verdict.

The program runs in one sandbox, which is told inputs and gives outputs; the comparison is made out
here. Test code runs in a second sandbox, which calls the program in the first.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace

from rlvr.config import CodeConfig
from rlvr.errors import ConfigError, SandboxError
from rlvr.task import Outcome, Verdict
from rlvr.verify.base import judged, unparseable
from rlvr.verify.sandbox import server
from rlvr.verify.sandbox.cases import Asserts, Calls, Runs, same_output, same_value
from rlvr.verify.sandbox.inside import confine
from rlvr.verify.sandbox.inside.plain import NotPlain
from rlvr.verify.sandbox.sandbox import Sandbox

_BROKEN = (
    "verifier 'code': {reason}\nIf namespaces are forbidden here, "
    "allow them (in Docker: --security-opt seccomp=unconfined --security-opt apparmor=unconfined; "
    "on Ubuntu: sysctl kernel.apparmor_restrict_unprivileged_userns=0), or set "
    "verifier.code.sandbox=unsafe to run programs without any protection."
)

_SHOWN = 200  # characters of an output in a verdict's detail


def judge(program: str, cases: Runs | Calls | Asserts, prelude: str, limits: CodeConfig) -> Verdict:
    """Run the tests, the first that fails decides. Raises ValueError if they are broken."""
    start = time.monotonic()
    with Sandbox("host", limits, start + limits.wall_s) as box:
        try:
            return _test(box, program, cases, prelude, limits)
        except TimeoutError:
            return _overran(f"verifier.code.wall_s={limits.wall_s:g}")
        except (EOFError, BrokenPipeError):
            status, seconds = box.exit_status(), time.monotonic() - start
            if status == signal.SIGKILL and seconds >= limits.cpu_s:
                return _overran(f"verifier.code.cpu_s={limits.cpu_s}")
            how = "closed output" if status is None else _status(status)
            return judged(False, f"the program ended before its tests did: {how}")
        except NotPlain as error:
            return judged(False, f"the program's answer cannot be read: {error}")


def check(limits: CodeConfig) -> None:
    """Judge a program and end its sandbox. Raises ConfigError if that is impossible here."""
    if limits.sandbox not in ("bubblewrap", "unsafe"):
        raise ConfigError(
            f"verifier.code.sandbox={limits.sandbox}: no such sandbox. Valid: bubblewrap, unsafe."
        )
    if os.uname().machine not in confine.MACHINES:
        raise ConfigError(
            f"verifier 'code' knows the system calls of {', '.join(confine.MACHINES)}, not of "
            f"{os.uname().machine}; use another machine for it."
        )
    patient = replace(limits, wall_s=60.0)
    try:
        verdict = judge("def f(): pass", Calls("f", [((), None)]), "", patient)
    except SandboxError as error:
        raise ConfigError(_BROKEN.format(reason=error)) from None
    server.end(limits.sandbox)  # the processes that verify fork off from this one
    if verdict.outcome is not Outcome.CORRECT:
        raise ConfigError(_BROKEN.format(reason=verdict.detail))


def _test(
    box: Sandbox, program: str, cases: Runs | Calls | Asserts, prelude: str, limits: CodeConfig
) -> Verdict:
    try:
        box.receive()
    except EOFError:
        raise SandboxError(f"the sandbox does not start: {box.server.last_words()}") from None
    except TimeoutError:
        raise SandboxError(f"the sandbox does not start within {limits.wall_s:g} s") from None
    box.send({"program": program, "call": not isinstance(cases, Runs), **_bounds(limits)})
    match box.receive():
        case ["unparseable", str(why)]:
            return unparseable(why)
    if isinstance(cases, Runs):
        return _test_runs(box, cases, limits)
    match box.receive():
        case ["failed", str(why)]:
            return judged(False, f"it fails before it is called: {why}")
    if isinstance(cases, Calls):
        return _test_calls(box, cases)
    return _test_asserts(box, cases, prelude, limits)


def _test_runs(box: Sandbox, cases: Runs, limits: CodeConfig) -> Verdict:
    for number, (given, expected) in enumerate(cases.pairs, start=1):
        box.write(given.encode("utf-8", "surrogatepass"))
        match box.receive():
            case [int(status), float(seconds)]:
                stdout, stderr = box.read(), box.read()
            case _:
                raise NotPlain("not what the sandbox says")
        where = f"test {number} of {len(cases.pairs)}: "
        if status == signal.SIGKILL and seconds >= limits.cpu_s - 0.5:
            return _overran(f"verifier.code.cpu_s={limits.cpu_s}, in {where[:-2]}")
        if status != 0:
            words = stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
            return judged(False, f"{where}{_status(status)} {words[:_SHOWN]}")
        output = stdout.decode("utf-8", "replace")
        if not same_output(expected, output):
            return judged(False, f"{where}{output[:_SHOWN]!r} is not {expected[:_SHOWN]!r}")
    return judged(True, f"{len(cases.pairs)} tests")


def _test_calls(box: Sandbox, cases: Calls) -> Verdict:
    for number, (arguments, expected) in enumerate(cases.pairs, start=1):
        where = f"test {number} of {len(cases.pairs)}: "
        box.send([cases.function, list(arguments), {}])
        match box.receive():
            case ["returned", value]:
                if not same_value(expected, value):
                    shown = repr(value)[:_SHOWN], repr(expected)[:_SHOWN]
                    return judged(False, f"{where}{shown[0]} is not {shown[1]}")
            case ["raised", _, str(words)]:
                return judged(False, where + words)
            case ["missing"]:
                return judged(False, f"it defines no function {cases.function}")
            case _:
                raise NotPlain("not what the sandbox says")
    return judged(True, f"{len(cases.pairs)} tests")


def _test_asserts(box: Sandbox, cases: Asserts, prelude: str, limits: CodeConfig) -> Verdict:
    pipes = [box.requests, box.answers]
    with Sandbox("tester", limits, box.deadline, keep=pipes) as tests:
        try:
            job = {"tests": cases.code, "entry_point": cases.function, "prelude": prelude}
            tests.send(job | _bounds(limits))
            result = tests.receive()
        except (EOFError, BrokenPipeError):
            if tests.exit_status() == signal.SIGKILL:
                return _overran(f"verifier.code.cpu_s={limits.cpu_s} to have its results compared")
            raise SandboxError(f"the tests ended early: {tests.server.last_words()}") from None
    match result:
        case ["passed"]:
            return judged(True)
        case ["failed", str(why)]:
            return judged(False, why)
        case ["ended", ""]:
            raise EOFError
        case ["ended", str(why)]:
            return judged(False, why)
        case [_, why]:
            raise ValueError(f"the tests are broken: {why}")
    raise SandboxError(f"the tests say {result!r:.200}")


def _bounds(limits: CodeConfig) -> dict[str, int]:
    """The limits that the processes set on themselves, in seconds and bytes."""
    return {
        "cpu_s": limits.cpu_s,
        "memory": limits.memory_mib * 2**20,
        "output": limits.output_mib * 2**20,
    }


def _overran(limit: str) -> Verdict:
    return Verdict(0.0, Outcome.TIMEOUT, f"the program needs more than {limit}")


def _status(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"killed by signal {-code}" if code < 0 else f"exit status {code}"
