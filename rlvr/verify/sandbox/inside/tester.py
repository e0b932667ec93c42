"""Test code (``def check(candidate): assert ...``), run apart from the program that it tests.

It stands in a sandbox of its own and reaches the program only by calls over two pipes, with plain
data in both directions. So nothing that the program does to ``assert``, ``==``, ``unittest`` or
the interpreter is seen here, and its end is not the end of the tests.

It reads ``{tests, entry_point, prelude}`` and answers ``["passed"]``, ``["failed", why]``,
``["ended", why]`` for the program's end, or ``["broken", why]`` for tests that cannot be run, or
check nothing.
"""

import ast
import builtins
import os
import random
import sys
from types import FunctionType
from typing import Any, Self

from rlvr.verify.sandbox.inside import confine, plain

_PIPES = 3, 4  # the program's input and output
_CHECKED = "__checked__"


class Ended(BaseException):
    """The program does not answer any more; no test may take that for an exception of its own."""


class Program:
    """The program at the other end of the pipes, and a count of what the tests do with it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit  # bytes of an answer
        self.calls = self.checks = 0
        self.ended: str | None = None  # why; a bare ``except`` may have caught the exception

    def function(self, name: str) -> Any:
        """A function of the program, by name."""

        def call(*arguments: Any, **keywords: Any) -> Any:
            self.calls += 1
            requests, answers = _PIPES
            try:
                plain.send(requests, [name, list(arguments), keywords])
                answer = plain.receive(answers, self._limit)
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

    def __call__(self) -> Self:
        return self

    def __getattr__(self, name: str) -> Any:
        return self._program.function(name)


def main(limits: dict[str, Any]) -> None:
    """Run one set of tests."""
    confine.drop_capabilities(limits)
    job = plain.receive(0)
    result_to = os.dup(1)
    confine.silence()  # what the tests print is nobody's
    confine.limit(limits, 2**24)
    program = Program(limits["output"])
    try:
        result = _run(program, **job)
    except Ended:
        pass
    if program.ended is not None:
        result = ["ended", program.ended]
    plain.send(result_to, result)


def _run(program: Program, tests: str, entry_point: str | None, prelude: str) -> list[str]:
    namespace: dict[str, Any] = {"__name__": "tests", _CHECKED: program.checked}
    try:
        tree = ast.parse(tests)
        nodes = list(ast.walk(tree))
        names = {entry_point} if entry_point else _names(tree, nodes)
        otherwise = _count_asserts(nodes)
        code = compile(tree, "tests.py", "exec", dont_inherit=True)
        if prelude:
            exec(compile(prelude, "prelude.py", "exec", dont_inherit=True), namespace)
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


def _names(tree: ast.Module, nodes: list[ast.AST]) -> set[str]:
    """The names that the tests use and nobody else defines: they are the program's.

    Without any, the function that the first assert calls: a task may want a ``sum`` of its own.
    """
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    bound = {node.arg for node in nodes if isinstance(node, ast.arg)}
    if names := {name for name in used - bound if not hasattr(builtins, name)}:
        return names
    asserts = [statement for statement in tree.body if isinstance(statement, ast.Assert)]
    calls = [node for test in asserts for node in ast.walk(test) if isinstance(node, ast.Call)]
    return {*[call.func.id for call in calls if isinstance(call.func, ast.Name)][:1]}


def _count_asserts(nodes: list[ast.AST]) -> bool:
    """Have each assert counted when it is met; whether the tests also check by other means."""
    otherwise = False
    for node in nodes:
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
