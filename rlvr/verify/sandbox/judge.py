"""One program, its tests and the verdict.

The program runs in one sandbox, which is told inputs and gives outputs. Small ones are compared out
here, large ones in a second sandbox. Test code, too, runs in a second sandbox, from which it calls
the program in the first.
"""

import math
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rlvr.config import CodeConfig
from rlvr.errors import ConfigError, SandboxError
from rlvr.task import Outcome, Verdict
from rlvr.verify.base import judged, unparseable
from rlvr.verify.forkserver import ended
from rlvr.verify.sandbox import server
from rlvr.verify.sandbox.cases import Asserts, Calls, Runs
from rlvr.verify.sandbox.inside import comparer
from rlvr.verify.sandbox.inside.plain import NotPlain
from rlvr.verify.sandbox.sandbox import Sandbox
from rlvr.verify.sandbox.script import begin, run

_BROKEN = (
    "verifier 'code': {reason}\nIf namespaces are forbidden here, "
    "allow them (in Docker: --security-opt seccomp=unconfined --security-opt apparmor=unconfined; "
    "on Ubuntu: sysctl kernel.apparmor_restrict_unprivileged_userns=0), or set "
    "verifier.code.sandbox=unsafe to run programs without any protection."
)

_SMALL = 2**16  # bytes of an answer that cannot take long to compare


def judge(program: str, cases: Runs | Calls | Asserts, prelude: str, limits: CodeConfig) -> Verdict:
    """Run the tests, the first that fails decides. Raises ValueError if they are broken."""
    with Sandbox("host", limits) as box:
        try:
            return _test(box, program, cases, prelude)
        except TimeoutError as error:
            return _overran(str(error) or f"verifier.code.wall_s={limits.wall_s:g}")
        except (EOFError, BrokenPipeError):
            status, seconds = box.exit_status(), time.monotonic() - box.start
            if status == signal.SIGKILL and seconds >= limits.cpu_s:
                return _overran(f"verifier.code.cpu_s={limits.cpu_s}")
            how = "closed output" if status is None else ended(status)
            return judged(False, f"the program ended before its tests did: {how}")
        except NotPlain as error:
            return judged(False, f"the program's answer cannot be read: {error}")


def check(limits: CodeConfig, key: str = "", timeout_s: float = math.inf) -> None:
    """Judge a program and end its sandbox. Raises ConfigError if that is impossible here.

    Args:
        key: of ``timeout_s``, after which the whole verifier or environment is ended.
    """
    if limits.wall_s >= timeout_s:
        raise ConfigError(
            f"verifier.code.wall_s={limits.wall_s:g} must be less than {key}={timeout_s:g}, which "
            "ends more than the program."
        )
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


def _test(box: Sandbox, program: str, cases: Runs | Calls | Asserts, prelude: str) -> Verdict:
    match begin(box, program, call=not isinstance(cases, Runs)):
        case ["unparseable", str(why)]:
            return unparseable(why)
        case ["failed", str(why)]:
            return judged(False, f"it fails before it is called: {why}")
    if isinstance(cases, Asserts):
        return _test_asserts(box, cases, prelude)
    pairs: Sequence[tuple[Any, Any]] = cases.pairs
    for number, (given, expected) in enumerate(pairs, start=1):
        where = f"test {number} of {len(pairs)}"
        if isinstance(cases, Calls):
            box.send([cases.function, list(given), {}])
            same, why = _compare(box, "result", expected, box.read())
        else:
            same, why = _run(box, given, expected, where)
        if not same:
            return judged(False, f"{where}: {why}")
    return judged(True, f"{len(pairs)} tests")


def _run(box: Sandbox, given: str, expected: str, where: str) -> tuple[bool, str]:
    own = run(box, given)
    if own.overran:
        raise TimeoutError(f"verifier.code.cpu_s={box.limits.cpu_s}, in {where}")
    if problem := own.problem(comparer.SHOWN):
        return False, problem
    return _compare(box, "output", expected, own.stdout)


def _compare(box: Sandbox, kind: str, expected: object, given: bytes) -> tuple[bool, str]:
    """Whether the answer is right, and if not, why."""
    if len(given) <= _SMALL:
        return comparer.KINDS[kind](expected, given)
    same, why = _apart("comparer", box, {"kind": kind, "expected": expected}, given)
    return same, why


def _test_asserts(box: Sandbox, cases: Asserts, prelude: str) -> Verdict:
    job = {"tests": cases.code, "entry_point": cases.function, "prelude": prelude}
    match _apart("tester", box, job, keep=[box.requests, box.answers]):
        case ["passed"]:
            return judged(True)
        case ["ended", ""]:
            raise EOFError
        case ["failed" | "ended", str(why)]:
            return judged(False, why)
        case ["broken", str(why)]:
            raise ValueError(f"the tests are broken: {why}")
        case result:
            raise SandboxError(f"the tests say {result!r:.200}")


def _apart(
    program: str, box: Sandbox, job: dict[str, Any], *data: bytes, keep: Sequence[int] = ()
) -> Any:
    """What a program of ours answers from a sandbox of its own, in the time that is left."""
    with Sandbox(program, box.limits, box.deadline, keep) as apart:
        try:
            apart.send(job)
            for part in data:
                apart.write(part)
            return apart.receive()
        except (EOFError, BrokenPipeError):
            if apart.exit_status() == signal.SIGKILL:
                limit = f"verifier.code.cpu_s={box.limits.cpu_s}"
                raise TimeoutError(f"{limit} to have its results compared") from None
            words = apart.server.last_words()
            raise SandboxError(f"the {program} ended early: {words}") from None


def _overran(limit: str) -> Verdict:
    return Verdict(0.0, Outcome.TIMEOUT, f"the program needs more than {limit}")
