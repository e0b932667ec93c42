"""Test code (``def check(candidate): assert ...``), run apart from the program that it tests.

It stands in a sandbox of its own and reaches the program only by calls over two pipes, with plain
data in both directions. So nothing that the program does to ``assert``, ``==``, ``unittest`` or
the interpreter is seen here, and its end is not the end of the tests.

It reads ``{tests, entry_point, prelude, cpu_s, memory, output}`` and answers
``["passed"]``, ``["failed", why]``, ``["ended", why]`` for the program's end, or
``["broken", why]`` for tests that cannot be run.
"""

from __future__ import annotations

import builtins
import os
import random
from types import CodeType, FunctionType
from typing import Any

from rlvr.verify.sandbox.inside import confine, plain

_PIPES = 3, 4  # the program's input and output


class Ended(BaseException):
    """The program does not answer any more; no test may take that for an exception of its own."""


class Program:
    """The program at the other end of the pipes."""

    def __init__(self, requests: int, answers: int, limit: int) -> None:
        self._requests, self._answers, self._limit = requests, answers, limit
        self.calls = 0

    def function(self, name: str) -> Any:
        """A function of the program, by name."""

        def call(*arguments: Any, **keywords: Any) -> Any:
            self.calls += 1
            try:
                plain.send(self._requests, [name, list(arguments), keywords])
                answer = plain.receive(self._answers, self._limit)
            except (EOFError, OSError):
                raise Ended from None
            except plain.NotPlain as error:
                raise Ended(f"its answer cannot be read: {error}") from None
            match answer:
                case ["returned", value]:
                    return value
                case ["raised", str(kind), str(words)]:
                    raise _exception(kind)(words)
                case ["missing"]:
                    raise Ended(f"it defines no function {name}")
            raise Ended("its answer is none")

        return call


def main() -> None:
    """Run one set of tests."""
    job = plain.receive(0)
    result_to = os.dup(1)
    confine.silence()  # what the tests print is nobody's
    confine.limit(job["cpu_s"], job["memory"], 2**24)
    program = Program(*_PIPES, job["output"])
    try:
        result = _run(job, program)
    except Ended as end:
        result = ["ended", str(end)]
    plain.send(result_to, result)


def _run(job: dict[str, Any], program: Program) -> list[str]:
    entry_point = job["entry_point"]
    namespace: dict[str, Any] = {"__name__": "tests"}
    try:
        code = compile(job["tests"], "tests.py", "exec", dont_inherit=True)
        # Names that the tests use and nobody else defines are the program's.
        for name in _names(code):
            if not hasattr(builtins, name):
                namespace[name] = program.function(name)
        exec(compile(job["prelude"], "prelude.py", "exec", dont_inherit=True), namespace)
    except Exception as error:
        return ["broken", f"{type(error).__name__}: {error}"]
    if entry_point:
        namespace[entry_point] = program.function(entry_point)
    try:
        random.seed(0)  # the same verdict every time
        exec(code, namespace)
        for name, value in list(namespace.items()):
            if isinstance(value, FunctionType) and value.__code__.co_filename == "tests.py":
                if name == "check" and entry_point:
                    value(namespace[entry_point])
                elif name.startswith("test_"):
                    value()
    except ImportError as error:
        return ["broken", f"{type(error).__name__}: {error}"]
    except Exception as error:
        return ["failed", f"{type(error).__name__}: {error}"[:500]]
    if not program.calls:
        return ["broken", "they call no function of the program"]
    return ["passed"]


def _names(code: CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _exception(kind: str) -> type[Exception]:
    """The built-in exception of that name: tests may expect it.

    Not ImportError, which says that the tests are broken, nor one that takes more than words.
    """
    found = getattr(builtins, kind, None)
    if isinstance(found, type) and issubclass(found, Exception):
        if not issubclass(found, ImportError | UnicodeError | ExceptionGroup):
            return found
    return RuntimeError
