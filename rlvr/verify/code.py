"""``code``: the program passes its tests.

The program runs in a sandbox (``rlvr.verify.sandbox``) that is told inputs and gives outputs; the
comparison is made out here. Test code runs in a second sandbox, which calls the program in the
first. What a program can do about its verdict is to give the right outputs.
"""

from __future__ import annotations

import os
import re
import signal
import time
from functools import lru_cache
from typing import Any

from rlvr.config import CodeConfig, VerifierConfig
from rlvr.errors import ConfigError, SandboxError
from rlvr.task import Outcome, Prompt, Verdict
from rlvr.verify import forkserver
from rlvr.verify.base import judged, unparseable
from rlvr.verify.cases import Asserts, Calls, Runs, read_tests, same_output, same_value
from rlvr.verify.inside.plain import NotPlain
from rlvr.verify.sandbox import Sandbox, check, job

_FENCE = re.compile(r"^[ \t]*(```+|~~~+)[ \t]*([\w+#.-]*)[^\n]*$", re.MULTILINE)
_SHOWN = 200


def verify_code(
    program: str,
    tests: Any,
    *,
    entry_point: str | None = None,
    prelude: str = "",
    limits: CodeConfig | None = None,
) -> Verdict:
    """Judge a Python program by its tests; the first that fails decides.

    Args:
        program: source text.
        tests: in any of the forms of ``rlvr.verify.cases``.
        entry_point: the function to call; none: a script that reads standard input.
        prelude: code of the task's own that test code may use. Names that neither the tests nor
            the prelude define are taken from the program, so it has a say in what they do.
        limits: of the sandbox.

    A program that ends early, breaks a limit or answers nonsense is incorrect, one that takes too
    long is a time-out, one that does not compile is unparseable.

    Raises:
        ValueError: the tests are none.
        SandboxError: the sandbox failed, twice.
    """
    limits = limits or CodeConfig()
    cases = read_tests(tests, entry_point)
    try:
        return _judge(program, cases, prelude, limits)
    except SandboxError:
        forkserver.end(limits.sandbox)
        return _judge(program, cases, prelude, limits)


class Code:
    """``verify_code`` as a verifier.

    The tests are the row's ``tests`` or ``input_output`` or its answer, the function's name its
    ``entry_point``; see ``extract_program`` for what is the program.

    Raises ConfigError without a working sandbox.
    """

    def __init__(self, config: VerifierConfig) -> None:
        if config.code.wall_s >= config.timeout_s:
            raise ConfigError(
                f"verifier.code.wall_s={config.code.wall_s:g} must be less than "
                f"verifier.timeout_s={config.timeout_s:g}, which kills the verifier itself."
            )
        check(config.code)
        self._limits = config.code

    def verify(self, prompt: Prompt, response_text: str) -> Verdict:
        """Test the program in ``response_text``."""
        tests = prompt.meta.get("tests") or prompt.meta.get("input_output") or prompt.answer
        entry_point = prompt.meta.get("entry_point")
        prelude = task_code(prompt.text, entry_point) if entry_point else ""
        program = extract_program(response_text, entry_point, prelude)
        if program is None:
            return unparseable("no program: no text, or no closed block of code")
        return verify_code(
            program, tests, entry_point=entry_point, prelude=prelude, limits=self._limits
        )


def extract_program(text: str, entry_point: str | None = None, prelude: str = "") -> str | None:
    """The program in a response, or None.

    * The last fenced block that defines ``entry_point``, else the last one, if it is Python's or
      nobody's; a block that is never closed is no program.
    * Without any block, the whole text.
    * Without any block, and indented: the body of the function with which ``prelude`` ends.

    ``prelude`` goes in front of the program, with its imports and helpers.
    """
    blocks = _blocks(text)
    if blocks is not None:
        defines = re.compile(rf"\bdef\s+{re.escape(entry_point)}\b") if entry_point else None
        chosen = [b for b in blocks if defines and defines.search(b)] or blocks
        return f"{prelude}\n{chosen[-1]}" if chosen else None
    if prelude and re.match(r"\n?[ \t]+\S", text):
        body = re.split(r"\n(?=\S)", text.lstrip("\n"), maxsplit=1)[0]
        return f"{prelude}{body}\n"
    return f"{prelude}\n{text}" if text.strip() else None


def _blocks(text: str) -> list[str] | None:
    """The closed blocks that may be Python; None if there is no block of any kind."""
    blocks: list[str] | None = None
    start, fence, language = -1, "", ""
    for found in _FENCE.finditer(text):
        if start < 0:
            start, fence, language = found.end() + 1, found[1], found[2].lower()
            blocks = blocks or []
        elif found[1].startswith(fence) and not found[2]:
            if blocks is not None and language in ("", "py", "python", "python3"):
                blocks.append(text[start : found.start()])
            start = -1
    return blocks


@lru_cache(maxsize=1024)
def task_code(text: str, entry_point: str) -> str:
    """The code in a prompt that ends with the head of ``entry_point``; empty if there is none.

    HumanEval's prompts are code, with imports and helper functions that solutions and tests use.
    """
    lines = text.splitlines()
    head = re.compile(rf"def\s+{re.escape(entry_point)}\s*\(")
    starts = [
        i for i, line in enumerate(lines) if re.match(r"(from|import|def|class|@)\s?\w", line)
    ]
    heads = [i for i, line in enumerate(lines) if head.match(line)]
    if not heads or not starts:
        return ""
    for end in range(heads[-1] + 1, min(len(lines), heads[-1] + 200) + 1):
        code = "\n".join(lines[starts[0] : end])
        try:
            compile(code, "prompt", "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            continue
        return code + "\n"
    return ""


def _judge(
    program: str, cases: Runs | Calls | Asserts, prelude: str, limits: CodeConfig
) -> Verdict:
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


def _test(
    box: Sandbox, program: str, cases: Runs | Calls | Asserts, prelude: str, limits: CodeConfig
) -> Verdict:
    try:
        box.receive()
    except EOFError:
        raise SandboxError(f"the sandbox does not start: {box.last_words()}") from None
    except TimeoutError:
        raise SandboxError(f"the sandbox does not start within {limits.wall_s:g} s") from None
    box.send(job(program, call=not isinstance(cases, Runs), limits=limits))
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
        box.send(given.encode("utf-8", "surrogatepass"))
        match box.receive():
            case [int(status), float(seconds), bytes(stdout), bytes(stderr)]:
                pass
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
            tests.send(
                {
                    "tests": cases.code,
                    "entry_point": cases.function,
                    "prelude": prelude,
                    "limit": limits.output_mib * 2**20,
                    "cpu_s": limits.cpu_s,
                    "memory": limits.memory_mib * 2**20,
                }
            )
            result = tests.receive()
        except (EOFError, BrokenPipeError):
            if tests.exit_status() == signal.SIGKILL:
                return _overran(f"verifier.code.cpu_s={limits.cpu_s} to have its results compared")
            raise SandboxError(f"the tests ended early: {tests.last_words()}") from None
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


def _overran(limit: str) -> Verdict:
    return Verdict(0.0, Outcome.TIMEOUT, f"the program needs more than {limit}")


def _status(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"killed by signal {-code}" if code < 0 else f"exit status {code}"


VERIFIER = Code
