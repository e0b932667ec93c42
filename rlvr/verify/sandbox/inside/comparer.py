"""What a program gave, compared with what was expected of it.

An answer can be made expensive to read and to compare. So the verifier itself compares small ones
only; for a larger one this is a program in a sandbox, bound like the program that gave it. It reads
``{kind, expected}`` and the answer as bytes, and says ``[same, why not]``.
"""

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from rlvr.verify.sandbox.inside import confine, plain

SHOWN = 200  # characters of an output in a verdict's detail
_EXACT = 15  # significant digits; with as many, a number is what a float looked like


def main(limits: dict[str, Any]) -> None:
    """Compare one answer."""
    confine.drop_capabilities(limits)
    job, given = plain.receive(0), plain.read(0)
    confine.limit(limits, limits["output"])
    try:
        result = KINDS[job["kind"]](job["expected"], given)
    except MemoryError:
        result = False, "comparing its output needs more than verifier.code.memory_mib"
    plain.send(1, list(result))


def compare_output(expected: str, given: bytes) -> tuple[bool, str]:
    """Whether a script's output is the expected one, and if not, why."""
    output = given.decode("utf-8", "replace")
    if same_output(expected, output):
        return True, ""
    return False, f"{output[:SHOWN]!r} is not {expected[:SHOWN]!r}"


def compare_result(expected: Any, given: bytes) -> tuple[bool, str]:
    """Whether a call's answer (``host``) is the expected result, and if not, why."""
    try:
        answer = plain.decode(given)
    except plain.NotPlain as error:
        return False, f"its answer cannot be read: {error}"
    match answer:
        case ["returned", value]:
            if same_value(expected, value):
                return True, ""
            return False, f"{_shown(value)} is not {_shown(expected)}"
        case ["raised", _, str(words)]:
            return False, words
        case ["missing"]:
            return False, "it does not define the function"
    return False, "its answer is none"


KINDS: dict[str, Callable[[Any, bytes], tuple[bool, str]]] = {
    "output": compare_output,
    "result": compare_result,
}


def _shown(value: Any) -> str:
    try:
        return repr(value)[:SHOWN]
    except ValueError:  # Python writes no such number in decimal digits
        return "a number of thousands of digits"


def same_output(expected: str, output: str) -> bool:
    """Line by line and word by word: white space does not count, nor do empty lines.

    Where the expected word has a decimal point, a number that is close will do.
    """
    if expected == output:
        return True
    theirs = [line.split() for line in expected.splitlines() if line.strip()]
    ours = [line.split() for line in output.splitlines() if line.strip()]
    return len(theirs) == len(ours) and all(
        len(wanted) == len(given) and all(map(_same_word, wanted, given))
        for wanted, given in zip(theirs, ours, strict=True)
    )


def _same_word(expected: str, word: str) -> bool:
    if expected == word:
        return True
    try:
        return "." in expected and _close(expected, float(word))
    except ValueError:
        return False


def same_value(expected: Any, value: Any) -> bool:
    """Equality of plain data, with room for rounding, and tuples for lists: JSON has no tuples.

    APPS wraps some results in a list of one: that is the same, too.
    """
    try:
        if _same(expected, value):
            return True
        alone = isinstance(expected, list | tuple) and len(expected) == 1
        return alone and _same(expected[0], value)
    except (ValueError, OverflowError):  # a number that no float holds, or no key can show
        return False


def _same(expected: Any, value: Any) -> bool:
    if isinstance(expected, list | tuple):
        alike = isinstance(value, list | tuple) and len(expected) == len(value)
        return alike and all(map(_same, expected, value))
    if isinstance(expected, dict) and isinstance(value, dict):
        ours = {str(key): item for key, item in value.items()}
        theirs = {str(key): item for key, item in expected.items()}
        return theirs.keys() == ours.keys() and all(_same(theirs[k], ours[k]) for k in theirs)
    if isinstance(expected, float) and isinstance(value, int | float):
        return expected == value or _close(repr(expected), float(value))
    return bool(expected == value)


def _close(expected: str, value: float) -> bool:
    """Within one part in a million; of an exact decimal, also within half of its last digit."""
    wanted = float(expected)
    if not math.isfinite(wanted):
        return False
    allowed = 1e-6 * max(1.0, abs(wanted))
    _, digits, exponent = Decimal(expected).as_tuple()
    if len(digits) < _EXACT:
        allowed = min(allowed, max(1e-6, 0.5 * float(f"1e{exponent}")))
    return abs(wanted - value) <= allowed
