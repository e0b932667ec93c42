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
from collections.abc import Mapping, Sequence
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
    if isinstance(tests, Mapping):
        return _read_columns(tests, entry_point)
    if isinstance(tests, Sequence) and tests:
        if all(isinstance(test, str) for test in tests):
            return Asserts("\n".join(tests), entry_point)
        if all(isinstance(test, Mapping) and {"input", "output"} <= test.keys() for test in tests):
            return _read_records(tests, entry_point)
        if all(isinstance(test, Sequence) and len(test) == 2 for test in tests):
            inputs, outputs = zip(*tests, strict=True)
            return _read_columns({"inputs": inputs, "outputs": outputs}, entry_point)
    raise ValueError(
        "tests must be test code, {'inputs': [...], 'outputs': [...]}, or a list of asserts, of "
        f"pairs or of {{'input', 'output'}}; these are: {str(tests)[:200]}"
    )


def _read_columns(tests: Mapping[str, Any], entry_point: str | None) -> Runs | Calls:
    inputs, outputs = tests.get("inputs"), tests.get("outputs")
    if not isinstance(inputs, Sequence) or not isinstance(outputs, Sequence):
        raise ValueError(f"tests need lists 'inputs' and 'outputs'; these have {', '.join(tests)}")
    if len(inputs) != len(outputs) or not inputs:
        raise ValueError(f"tests have {len(inputs)} inputs and {len(outputs)} outputs")
    function = tests.get("fn_name") or entry_point
    if not function:
        return Runs([(_text(i), _text(o)) for i, o in zip(inputs, outputs, strict=True)])
    arguments = [i if isinstance(i, list | tuple) else [i] for i in inputs]
    return Calls(function, list(zip(arguments, outputs, strict=True)))


def _read_records(tests: Sequence[Mapping[str, Any]], entry_point: str | None) -> Runs | Calls:
    function = (tests[0].get("metadata") or {}).get("func_name") or entry_point
    if tests[0].get("testtype") != "functional":
        columns = {key + "s": [test[key] for test in tests] for key in ("input", "output")}
        return _read_columns(columns, function)
    if not function:
        raise ValueError("functional tests name no function: neither func_name nor entry_point")
    pairs = []
    for test in tests:
        arguments = [json.loads(line) for line in test["input"].splitlines() if line.strip()]
        pairs.append((arguments, json.loads(test["output"])))
    return Calls(function, pairs)


def _text(value: Any) -> str:
    """Text; some collections give lines instead."""
    return "\n".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
