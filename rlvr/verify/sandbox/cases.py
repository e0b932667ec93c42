"""Tests of programs, as they come with data sets, in three forms that can be run.

Understood are

* test code (HumanEval): ``def check(candidate): assert candidate(1) == 2``, functions ``test_*``,
  or bare asserts, also as a list of them (MBPP);
* ``{"inputs": [...], "outputs": [...], "fn_name": ...}`` (APPS, TACO): texts for standard input and
  output, or, with a function's name, lists of arguments and results;
* a list of ``{"input", "output", "testtype", "metadata": {"func_name"}}`` (LiveCodeBench), or of
  pairs (input, output);

each also as JSON text.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Runs:
    """Standard inputs and the outputs that a script must give."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Calls:
    """Arguments and the results that a function must give."""

    function: str
    pairs: Sequence[tuple[Sequence[Any], Any]]


@dataclass(frozen=True)
class Asserts:
    """Test code, and the function that its ``check`` is called with."""

    code: str
    function: str | None


def read_tests(tests: Any, entry_point: str | None) -> Runs | Calls | Asserts:
    """The tests in one of three forms. Raises ValueError if they are none of the above."""
    if isinstance(tests, str):
        try:
            tests = json.loads(tests)
        except ValueError:
            return Asserts(tests, entry_point)
    match tests:
        case {"inputs": [*inputs], "outputs": [*outputs]} if inputs and len(inputs) == len(outputs):
            return _columns(inputs, outputs, tests.get("fn_name") or entry_point)
        case [str(), *_] if all(isinstance(test, str) for test in tests):
            return Asserts("\n".join(tests), entry_point)
        case [_, *_] if all(map(_is_record, tests)):
            function = (tests[0].get("metadata") or {}).get("func_name") or entry_point
            inputs, outputs = ([test[key] for test in tests] for key in ("input", "output"))
            if tests[0].get("testtype") == "functional":
                if not function:
                    raise ValueError("functional tests have neither func_name nor entry_point")
                inputs = [[json.loads(x) for x in i.splitlines() if x.strip()] for i in inputs]
                outputs = [json.loads(output) for output in outputs]
            return _columns(inputs, outputs, function)
        case [[_, _], *_] if all(isinstance(t, list | tuple) and len(t) == 2 for t in tests):
            return _columns([i for i, _ in tests], [o for _, o in tests], entry_point)
    raise ValueError(
        "tests must be test code, as many {'inputs': [...]} as {'outputs': [...]}, or a list of "
        f"asserts, of pairs or of {{'input', 'output'}}; these are: {str(tests)[:200]}"
    )


def _is_record(test: Any) -> bool:
    return isinstance(test, dict) and {"input", "output"} <= test.keys()


def _columns(inputs: Sequence[Any], outputs: Sequence[Any], function: str | None) -> Runs | Calls:
    if function:
        arguments = [i if isinstance(i, list | tuple) else [i] for i in inputs]
        return Calls(function, list(zip(arguments, outputs, strict=True)))
    return Runs([(_text(i), _text(o)) for i, o in zip(inputs, outputs, strict=True)])


def _text(value: Any) -> str:
    """Text; some collections give lines instead."""
    return "\n".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
