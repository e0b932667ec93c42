"""Test code (``def check(candidate): assert ...``), run apart from the program that it tests.

It stands in a sandbox of its own and reaches the program only by calls over two pipes, with plain
data in both directions. So nothing that the program does to ``assert``, ``==``, ``unittest`` or
the interpreter is seen here, and its end is not the end of the tests.

It reads ``{tests, entry_point, prelude, cpu_s, memory, output}`` and answers
``["passed"]``, ``["failed", why]``, ``["ended", why]`` for the program's end, or
``["broken", why]`` for tests that cannot be run, or check nothing.
"""

from __future__ import annotations

import ast
import builtins
import os
import random
import sys
from types import FunctionType
from typing import Any

from rlvr.verify.sandbox.inside import confine, plain

_PIPES = 3, 4  # the program's input and output
_CHECKED = "__checked__"


class Ended(BaseException):
    """The program does not answer any more; no test may take that for an exception of its own."""


class Program:
    """The program at the other end of the pipes, and a count of what the tests do with it."""

    def __init__(self, requests: int, answers: int, limit: int) -> None:
        self._requests, self._answers, self._limit = requests, answers, limit
        self.calls = self.checks = 0
        self.ended: str | None = None  # why; a bare ``except`` may have caught the exception

    def function(self, name: str) -> Any:
        """A function of the program, by name."""

        def call(*arguments: Any, **keywords: Any) -> Any:
            self.calls += 1
            try:
                plain.send(self._requests, [name, list(arguments), keywords])
                answer = plain.receive(self._answers, self._limit)
            except (EOFError, OSError):
                raise self._end("") from None
            except (plain.NotPlain, MemoryError) as error:
                raise self._end(f"its answer cannot be read: {error!r}") from None
            match answer:
                case ["returned", value]:
                    return value
                case ["raised", str(kind), str(words)]:
                    self.checks += 1
                    raise _exception(kind)(words)
                case ["missing"]:
                    raise self._end(f"it defines no function {name}")
            raise self._end("its answer is none")

        return call

    def checked(self, condition: Any) -> Any:
        """What an assert is about."""
        self.checks += 1
        return condition

    def _end(self, why: str) -> Ended:
        self.ended = why
        return Ended()


class Solution:
    """The program's class of this name: each of its methods is called on a fresh object."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def __call__(self) -> Solution:
        """It is its own object."""
        return self

    def __getattr__(self, name: str) -> Any:
        return self._program.function(name)


def main(disk: int | None) -> None:
    """Run one set of tests."""
    if disk is not None:
        confine.drop_capabilities()
    job = plain.receive(0)
    result_to = os.dup(1)
    confine.silence()  # what the tests print is nobody's
    confine.limit(job["cpu_s"], job["memory"], 2**24)
    program = Program(*_PIPES, job["output"])
    try:
        result = _run(job, program)
    except Ended:
        result = []
    if program.ended is not None:
        result = ["ended", program.ended]
    plain.send(result_to, result)


def _run(job: dict[str, Any], program: Program) -> list[str]:
    entry_point = job["entry_point"]
    namespace: dict[str, Any] = {"__name__": "tests", _CHECKED: program.checked}
    try:
        tree = ast.parse(job["tests"])
        names = {entry_point} if entry_point else _names(tree)
        otherwise = _count_asserts(tree)
        code = compile(tree, "tests.py", "exec", dont_inherit=True)
        if job["prelude"]:
            exec(compile(job["prelude"], "prelude.py", "exec", dont_inherit=True), namespace)
    except Exception as error:
        return ["broken", f"{type(error).__name__}: {error}"]
    namespace |= {name: program.function(name) for name in names}
    namespace["Solution"] = Solution(program)
    try:
        random.seed(0)  # the same verdict every time
        try:
            exec(code, namespace)
        except SystemExit:  # of unittest.main(), which finds nothing
            pass
        for name, value in list(namespace.items()):
            if isinstance(value, FunctionType) and value.__code__.co_filename == "tests.py":
                if name == "check" and entry_point:
                    value(namespace[entry_point])
                elif name.startswith("test_"):
                    value()
            elif isinstance(value, type) and value.__module__ == "tests":
                program.checks += _run_cases(value)
    except (ImportError, SystemExit) as error:
        return ["broken", f"{type(error).__name__}: {error}"]
    except Exception as error:
        words = f"{type(error).__name__}: {error}"[:500]
        ours = isinstance(error, NameError) and error.name  # the program's come without
        return ["broken" if ours else "failed", words]
    if not program.calls:
        return ["broken", "they call no function of the program"]
    if not program.checks and not otherwise:
        return ["broken", "they check nothing"]
    return ["passed"]


def _run_cases(cases: type) -> int:
    """Run the tests of a class of unittest's, if it is one; how many there were."""
    unittest = sys.modules.get("unittest")
    if unittest is None or not issubclass(cases, unittest.TestCase):
        return 0
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(cases)
    suite.debug()  # raises what the tests raise
    return int(suite.countTestCases())


def _names(tree: ast.Module) -> set[str]:
    """The names that the tests use and nobody else defines: they are the program's.

    Without any, the function that the first assert calls: a task may want a ``sum`` of its own.
    """
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    bound = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    if names := {name for name in used - bound if not hasattr(builtins, name)}:
        return names
    for statement in tree.body:
        if isinstance(statement, ast.Assert):
            for node in ast.walk(statement):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    return {node.func.id}
    return set()


def _count_asserts(tree: ast.Module) -> bool:
    """Have each assert counted when it is met; whether the tests also check by other means."""
    otherwise = False
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            counter = ast.copy_location(ast.Name(_CHECKED, ast.Load()), node)
            node.test = ast.copy_location(ast.Call(counter, [node.test], []), node)
        elif isinstance(node, ast.Attribute):
            otherwise |= node.attr.startswith("assert")
        else:
            otherwise |= isinstance(node, ast.Raise)
    return otherwise


def _exception(kind: str) -> type[Exception]:
    """The built-in exception of that name: tests may expect it.

    Not ImportError, which says that the tests are broken, nor one that ends a loop over the
    program's results without a word (PEP 479), nor one that takes more than words.
    """
    found = getattr(builtins, kind, None)
    if isinstance(found, type) and issubclass(found, Exception):
        silent = StopIteration | StopAsyncIteration
        if not issubclass(found, ImportError | UnicodeError | ExceptionGroup | silent):
            return found
    return RuntimeError
