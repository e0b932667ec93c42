import json
from typing import Any

import pytest

from rlvr.verify.sandbox.cases import Asserts, Calls, Runs, read_tests
from rlvr.verify.sandbox.inside.comparer import same_output, same_value


@pytest.mark.parametrize(
    ("tests", "entry_point", "expected"),
    [
        ({"inputs": ["1\n"], "outputs": ["2\n"]}, None, Runs([("1\n", "2\n")])),
        ({"inputs": [["1", "2"]], "outputs": [["3"]]}, None, Runs([("1\n2", "3")])),
        ([["1", "2"]], None, Runs([("1", "2")])),
        ([{"input": "1", "output": "2", "testtype": "stdin"}], None, Runs([("1", "2")])),
        ({"inputs": [[1, 2]], "outputs": [3], "fn_name": "f"}, None, Calls("f", [([1, 2], 3)])),
        ({"inputs": [1], "outputs": [3]}, "g", Calls("g", [([1], 3)])),
        (
            [
                {
                    "input": '[1, 2]\n"x"',
                    "output": "[1]",
                    "testtype": "functional",
                    "metadata": {"func_name": "h"},
                }
            ],
            None,
            Calls("h", [([[1, 2], "x"], [1])]),
        ),
        (["assert f(1) == 1", "assert f(2) == 2"], None, None),
    ],
)
def test_every_layout(tests: Any, entry_point: str | None, expected: Any) -> None:
    for form in (tests, json.dumps(tests)):
        read = read_tests(form, entry_point)
        assert read == (expected or Asserts("\n".join(tests), None))


@pytest.mark.parametrize(
    "tests", [[], {}, {"inputs": [], "outputs": []}, {"inputs": ["1"], "outputs": []}, 3, [1], "7"]
)
def test_what_are_no_tests(tests: Any) -> None:
    with pytest.raises(ValueError, match="tests"):
        read_tests(tests, None)


@pytest.mark.parametrize(
    ("expected", "output", "same"),
    [
        ("1 2\n3\n", "1 2\n3", True),
        ("1 2\n3", " 1  2 \n\n3\n\n", True),
        ("1 2\n3", "1\n2 3", False),
        ("0.5", "0.5000000001", True),
        ("0.5", "0.51", False),
        ("0.5", "x", False),
        ("1000000", "1000001", False),
        ("1000000", "1e6", False),
        ("0.1", "nan", False),
        ("12345678.90", "12345678.9", True),
        ("12345678.90", "12345678.904", True),
        ("12345678.90", "12345678.91", False),
        ("12345678.90", "12345670.00", False),
        ("5000000.0", "5000000", True),
        ("5000000.0", "5000001", False),
        ("0.333333", "0.3333338", True),
        ("123456.78901234567", "123456.78901", True),
        ("0.30000000000000004", "0.3", True),
        ("1.5e-9", "0", True),
        ("0.0e999", "0", True),
        ("1.5e999", "0", False),
        ("1.5", "1e999", False),
        ("Yes", "YES", False),
        ("", "\n", True),
        ("1", "", False),
        ("1", "1 2", False),
    ],
)
def test_outputs(expected: str, output: str, same: bool) -> None:
    assert same_output(expected, output) is same


@pytest.mark.parametrize(
    ("expected", "value", "same"),
    [
        ([1, 2], (1, 2), True),
        ([[1, 2]], (1, 2), True),
        ([1, 2], [2, 1], False),
        ([1], [1, 1], False),
        ({"1": 2.0}, {1: 2}, True),
        ({"1": 2}, {1: 2, 2: 2}, False),
        (0.1 + 0.2, 0.3, True),
        (3, 3.0000001, False),
        (0.5, "0.5", False),
        (12345678.9, 12345678.9 + 1e-6, True),
        (12345678.9, 12345670.0, False),
        (float("inf"), float("inf"), True),
        (1.5, 10**400, False),
        ({"1": 2}, {10**5000: 2}, False),
        ("a", "a", True),
        (None, None, True),
        (None, 0, False),
    ],
)
def test_values(expected: Any, value: Any, same: bool) -> None:
    assert same_value(expected, value) is same
