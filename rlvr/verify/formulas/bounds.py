r"""What is refused because it is short to write and impossible to evaluate or to compare.

``9^{9^{9}}``, ``((9!)!)!``, ``(x+y+z+w)^{300}``: told at once, instead of by the death of a worker.
"""

import math
import re
from collections.abc import Iterable
from itertools import accumulate

import sympy
from sympy import Basic

MAX_CHARACTERS = 1000
MAX_DEPTH = 8  # of brackets; each level costs the parser more than the one before
MAX_DIGITS = 10_000.0  # of any number that comparing may have to write out
MAX_TERMS = 1000  # of a sum or product with explicit bounds; with functions, a tenth of a tenth
_MAX_DEGREE = 16  # of what is compared by algebra, not by its values
_MAX_OPERATIONS = 150  # in the same
_MAX_ROOT = 300  # digits of a number under a root, which sympy tries to factor
_MAX_COSTLY = 24  # function names, bars and powers of powers: the parser tries each in many ways

_COSTLY = re.compile(r"\||\\[lr]?vert|\\(?:sin|cos|tan|cot|sec|csc|log|ln|exp|arc|sum|prod|int)")
_TOWER = re.compile(r"(?:\^\s?\{?\s?\\?[a-zA-Z0-9]+\s?){5}")
_EAGER = re.compile(r"\\[dt]?binom|\\choose|gcd|lcm")  # evaluated while being parsed


class NotParsed(Exception):
    """The text is no formula that can be read, or none that can be evaluated; says why."""


def check_text(text: str) -> None:
    """Raise NotParsed if parsing ``text`` would take too long."""
    if len(text) > MAX_CHARACTERS:
        raise NotParsed(f"longer than {MAX_CHARACTERS} characters")
    depths = accumulate((c in "([{") - (c in ")]}") for c in text)
    if max(depths, default=0) > MAX_DEPTH:
        raise NotParsed(f"brackets nested deeper than {MAX_DEPTH}")
    if _TOWER.search(text) or text.count("|") > 10 or len(_COSTLY.findall(text)) > _MAX_COSTLY:
        raise NotParsed("too many functions to parse")
    large = "!" in text or text.count("^") > 1 or re.search(r"[0-9]{5}", text)
    if large and _EAGER.search(text):
        raise NotParsed("too large to evaluate")


def check_algebra(expression: Basic | sympy.MatrixBase) -> None:
    """Raise NotParsed if expanding, simplifying or solving ``expression`` would take too long."""
    degrees = (p.exp for p in expression.atoms(sympy.Pow) if p.base.free_symbols)
    if any(degree.is_Rational and abs(degree) > _MAX_DEGREE for degree in degrees):
        raise NotParsed("too high a degree to compare")
    if expression.has(sympy.Sum, sympy.Product) or sympy.count_ops(expression) > _MAX_OPERATIONS:
        raise NotParsed("too long to compare")


def digits(expression: object) -> float:
    """An upper bound of the decimal digits that evaluating ``expression`` has to write out.

    Symbols and constants count as small numbers. Raises NotParsed above MAX_DIGITS.
    """
    if isinstance(expression, Iterable) and not isinstance(expression, Basic):
        return max((digits(e) for e in expression), default=0.0)  # a matrix, a list of cases
    if not isinstance(expression, Basic):
        return 0.0
    if isinstance(expression, sympy.Rational):
        return math.log10(max(abs(expression.p), expression.q))
    if isinstance(expression, sympy.Float):
        return abs(float(sympy.log(abs(expression), 10))) if expression else 0.0
    parts = [digits(part) for part in expression.args]
    size = max(parts, default=0.0)
    if isinstance(expression, sympy.Mul | sympy.MatMul):
        size = sum(parts)
    elif isinstance(expression, sympy.Pow | sympy.MatPow):
        power = expression.args[1]
        size = max(parts[0], 0.5) * _value(power, parts[1])
        if parts[0] > _MAX_ROOT and not power.is_integer:
            raise NotParsed("too large a number under a root")
    elif isinstance(expression, sympy.exp):
        size = _value(expression.args[0], parts[0])
    elif isinstance(expression, sympy.factorial | sympy.factorial2 | sympy.gamma):
        size = _value(expression.args[0], parts[0]) * max(parts[0], 1.0)
    elif isinstance(expression, sympy.Sum | sympy.Product):
        size *= _count(expression)
    elif isinstance(expression, sympy.Integral | sympy.Limit):
        raise NotParsed("an integral or a limit is not evaluated")
    if size > MAX_DIGITS:
        raise NotParsed("too large to evaluate")
    return max(size, *parts) if parts else size


def _value(expression: Basic, size: float) -> float:
    """An upper bound of the absolute value of ``expression``, cut off above MAX_DIGITS."""
    if isinstance(expression, sympy.Rational):
        return abs(expression.p) / expression.q if size < 9.0 else 1e9
    return 10.0 ** min(size, 9.0)


def _count(expression: sympy.Sum | sympy.Product) -> float:
    count = 1.0
    for _, low, high in expression.limits:
        steps = high - low
        if steps.is_infinite:
            raise NotParsed("a sum without end is not evaluated")
        count *= max(1.0, float(steps)) if steps.is_Integer else 1.0
    if count > (MAX_TERMS // 100 if expression.function.has(sympy.Function) else MAX_TERMS):
        raise NotParsed("too many terms to evaluate")
    return count
