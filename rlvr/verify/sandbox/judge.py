"""One program, its tests and the verdict.

The program runs in one sandbox, which is told inputs and gives outputs. Small ones are compared out
here, large ones in a second sandbox. Test code, too, runs in a second sandbox, from which it calls
the program in the first.
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
from rlvr.verify.sandbox import server, syscalls
from rlvr.verify.sandbox.cases import Asserts, Calls, Runs
from rlvr.verify.sandbox.inside import comparer
from rlvr.verify.sandbox.inside.plain import NotPlain
from rlvr.verify.sandbox.sandbox import Sandbox

_BROKEN = (
    "verifier 'code': {reason}\nIf namespaces are forbidden here, "
    "allow them (in Docker: --security-opt seccomp=unconfined --security-opt apparmor=unconfined; "
    "on Ubuntu: sysctl kernel.apparmor_restrict_unprivileged_userns=0), or set "
    "verifier.code.sandbox=unsafe to run programs without any protection."
)

_SMALL = 2**16  # bytes of an answer that cannot take long to compare
_COMPARING = "verifier.code.cpu_s={} to have its results compared"


def judge(program: str, cases: Runs | Calls | Asserts, prelude: str, limits: CodeConfig) -> Verdict:
    """Run the tests, the first that fails decides. Raises ValueError if they are broken."""
    start = time.monotonic()
    with Sandbox("host", limits, start + limits.wall_s) as box:
        try:
            return _test(box, program, cases, prelude, limits)
        except TimeoutError as error:
            return _overran(str(error) or f"verifier.code.wall_s={limits.wall_s:g}")
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
    patient = replace(limits, wall_s=60.0)
    try:
        # The import shows that programs, which are nobody's, can read the standard library.
        verdict = judge("import graphlib\ndef f(): pass", Calls("f", [((), None)]), "", patient)
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
    job = {"program": program, "call": not isinstance(cases, Runs), "filter": syscalls.compiled()}
    box.send(job | _bounds(limits))
    match box.receive():
        case ["unparseable", str(why)]:
            return unparseable(why)
    if isinstance(cases, Runs):
        return _test_runs(box, cases, limits)
    match box.receive():
        case ["failed", str(why)]:
            return judged(False, f"it fails before it is called: {why}")
    if isinstance(cases, Calls):
        return _test_calls(box, cases, limits)
    return _test_asserts(box, cases, prelude, limits)


def _test_runs(box: Sandbox, cases: Runs, limits: CodeConfig) -> Verdict:
    for number, (given, expected) in enumerate(cases.pairs, start=1):
        box.write(given.encode("utf-8", "surrogatepass"))
        match box.receive():
            case [int(status), float(seconds)]:
                stdout, stderr = box.read(), box.read()
            case _:
                raise NotPlain("not what the sandbox says")
        where = f"test {number} of {len(cases.pairs)}"
        if status == signal.SIGKILL and seconds >= limits.cpu_s - 0.5:
            return _overran(f"verifier.code.cpu_s={limits.cpu_s}, in {where}")
        if status != 0:
            words = stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
            return judged(False, f"{where}: {_status(status)} {words[: comparer.SHOWN]}")
        same, why = _compare(box, "output", expected, stdout, limits)
        if not same:
            return judged(False, f"{where}: {why}")
    return judged(True, f"{len(cases.pairs)} tests")


def _test_calls(box: Sandbox, cases: Calls, limits: CodeConfig) -> Verdict:
    for number, (arguments, expected) in enumerate(cases.pairs, start=1):
        box.send([cases.function, list(arguments), {}])
        same, why = _compare(box, "result", expected, box.read(), limits)
        if not same:
            return judged(False, f"test {number} of {len(cases.pairs)}: {why}")
    return judged(True, f"{len(cases.pairs)} tests")


def _compare(
    box: Sandbox, kind: str, expected: object, given: bytes, limits: CodeConfig
) -> tuple[bool, str]:
    """Whether the answer is right, and if not, why."""
    if len(given) <= _SMALL:
        return comparer.KINDS[kind](expected, given)
    with Sandbox("comparer", limits, box.deadline) as apart:
        try:
            apart.send({"kind": kind, "expected": expected, **_bounds(limits)})
            apart.write(given)
            same, why = apart.receive()
        except (EOFError, BrokenPipeError):
            if apart.exit_status() == signal.SIGKILL:
                raise TimeoutError(_COMPARING.format(limits.cpu_s)) from None
            raise SandboxError(f"the comparison ended: {apart.server.last_words()}") from None
    return same, why


def _test_asserts(box: Sandbox, cases: Asserts, prelude: str, limits: CodeConfig) -> Verdict:
    pipes = [box.requests, box.answers]
    with Sandbox("tester", limits, box.deadline, keep=pipes) as tests:
        try:
            job = {"tests": cases.code, "entry_point": cases.function, "prelude": prelude}
            tests.send(job | _bounds(limits))
            result = tests.receive()
        except (EOFError, BrokenPipeError):
            if tests.exit_status() == signal.SIGKILL:
                raise TimeoutError(_COMPARING.format(limits.cpu_s)) from None
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
