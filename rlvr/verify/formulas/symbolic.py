"""Answers as sympy expressions: parsed and compared by math-verify, behind guards.

math-verify's own time-outs use signals; they are off here, because the process that runs this is
killed from outside. The guards refuse what would otherwise cost such a kill each time:
expressions that are short to write and impossible to evaluate (``9^{9^{9}}``, ``((9!)!)!``).
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable
from fractions import Fraction
from functools import lru_cache
from typing import TypeAlias

import sympy
from latex2sympy2_extended.latex2sympy2 import NormalizationConfig, latex2sympy, normalize_latex
from math_verify.grader import verify
from sympy import Basic, Expr, Float, I, MatrixBase

from rlvr.verify.formulas.number import close

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its time-outs are off

MAX_CHARACTERS = 1000  # parsing takes up to a second at that length
MAX_DEPTH = 16  # of brackets; each level costs the parser more than the one before
MAX_DIGITS = 10_000.0  # of any number that comparing may have to write out
MAX_TERMS = 1000  # of a sum or product with explicit bounds

_NORMALIZATION = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
)
_EAGER = re.compile(r"\\[dt]?binom|\\choose|gcd|lcm")  # evaluated while being parsed
_IMAGINARY = re.compile(r"(?<![a-zA-Z\\])i(?![a-zA-Z])")
_EQUALS = re.compile(r"(?<![\\<>!])=")

Expression: TypeAlias = Basic | MatrixBase


class NotParsed(Exception):
    """The text is no formula that can be read, or none that can be evaluated."""


def same(gold: str, prediction: str) -> bool:
    """Whether two formulas mean the same.

    Raises NotParsed if ``prediction`` cannot be read; a ``gold`` that cannot be read equals
    nothing but itself.
    """
    # i is a variable where neither side can mean the imaginary unit.
    imaginary = bool(_IMAGINARY.search(gold) or _IMAGINARY.search(prediction))
    read_prediction = _read(prediction, imaginary)
    if isinstance(read_prediction, str):
        raise NotParsed(read_prediction)
    read_gold = _read(gold, imaginary)
    if isinstance(read_gold, str):
        return False
    if _is_number(read_gold) and _is_number(read_prediction):
        if read_gold.has(Float) or read_prediction.has(Float):
            return _close(read_gold, read_prediction)
    try:
        return bool(
            verify(
                read_gold,
                read_prediction,
                allow_set_relation_comp=True,  # 0 < x < 1 is (0, 1), whichever side writes which
                timeout_seconds=None,
                raise_on_error=True,
            )
        )
    except MemoryError:
        raise
    except Exception:  # sympy cannot compare the two: it has no common superclass for that
        return False


@lru_cache(maxsize=2048)
def _read(text: str, imaginary: bool) -> Expression | str:
    """The expression, or why there is none. Cached: a group shares its gold answer."""
    if len(text) > MAX_CHARACTERS:
        return f"longer than {MAX_CHARACTERS} characters"
    if _depth(text) > MAX_DEPTH:
        return f"brackets nested deeper than {MAX_DEPTH}"
    if _EAGER.search(text) and _large_arguments(text):
        return "too large to evaluate"
    try:
        expression = _parse(text, imaginary)
    except MemoryError:
        raise
    except Exception as error:  # the parser raises bare Exception
        return f"not a formula: {str(error).splitlines()[0] if str(error) else error!r}"
    if expression is None:
        return "not a formula"
    try:
        _digits(expression)
    except (_TooLarge, RecursionError):
        return "too large to evaluate"
    if imaginary and isinstance(expression, Basic):
        unit = [s for s in expression.free_symbols if str(s) == "i"]
        expression = expression.xreplace(dict.fromkeys(unit, I))
    return expression


def _parse(text: str, imaginary: bool) -> Expression | None:
    normal = normalize_latex(text, _NORMALIZATION)
    is_real = None if imaginary else True
    try:
        return latex2sympy(normal, is_real=is_real, normalization_config=None)
    except MemoryError:
        raise
    except Exception:
        chain = _EQUALS.split(normal)
        if len(chain) < 3 or "," in normal or ";" in normal:
            raise
        return latex2sympy(chain[-1], is_real=is_real, normalization_config=None)


def _is_number(expression: Expression) -> bool:
    return isinstance(expression, Expr) and bool(expression.is_number)


def _close(gold: Expression, prediction: Expression) -> bool:
    """Numbers with a decimal point: equal but for rounding, as in ``number.close``."""
    values = []
    for expression in (gold, prediction):
        real, imaginary = expression.evalf(30).as_real_imag()
        if not (real.is_finite and imaginary.is_finite and real.is_Float | real.is_Integer):
            return False
        values.append((Fraction(str(real)), Fraction(str(imaginary))))
    return all(close(p, g) for g, p in zip(*values, strict=True))


# -- guards -----------------------------------------------------------------------------------


class _TooLarge(Exception):
    pass


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth -= 1
    return deepest


def _large_arguments(text: str) -> bool:
    return "!" in text or text.count("^") > 1 or re.search(r"[0-9]{5}", text) is not None


def _digits(expression: object) -> float:
    """An upper bound of the decimal digits that evaluating ``expression`` has to write out.

    Raises _TooLarge above MAX_DIGITS. Symbols and constants count as small numbers.
    """
    if isinstance(expression, Iterable) and not isinstance(expression, Basic):
        return max((_digits(e) for e in expression), default=0.0)  # a matrix, a list of cases
    if not isinstance(expression, Basic):
        return 0.0
    if isinstance(expression, sympy.Rational):
        return math.log10(max(abs(expression.p), expression.q))
    if isinstance(expression, Float):
        return abs(float(sympy.log(abs(expression), 10))) if expression else 0.0
    parts = [_digits(part) for part in expression.args]
    digits = max(parts, default=0.0)
    if isinstance(expression, sympy.Mul | sympy.MatMul):
        digits = sum(parts)
    elif isinstance(expression, sympy.Pow | sympy.MatPow):
        exponent = _value(expression.args[1], parts[1])
        if exponent > MAX_DIGITS:  # of a variable, too: its degree
            raise _TooLarge
        digits = parts[0] * exponent
    elif isinstance(expression, sympy.exp):
        digits = _value(expression.args[0], parts[0])
    elif isinstance(expression, sympy.factorial | sympy.factorial2 | sympy.gamma):
        digits = _value(expression.args[0], parts[0]) * max(parts[0], 1.0)
    elif isinstance(expression, sympy.Sum | sympy.Product):
        terms = _terms(expression)
        if terms > MAX_TERMS:
            raise _TooLarge
        if isinstance(expression, sympy.Product):
            digits *= terms
    if digits > MAX_DIGITS:
        raise _TooLarge
    return digits


def _value(expression: Basic, digits: float) -> float:
    """An upper bound of the absolute value of ``expression``, cut off above MAX_DIGITS."""
    if isinstance(expression, sympy.Rational):
        return abs(expression.p) / expression.q if digits < 9.0 else 1e9
    return 10.0 ** min(digits, 9.0)


def _terms(expression: sympy.Sum | sympy.Product) -> float:
    terms = 1.0
    for _, low, high in expression.limits:
        count = high - low
        terms *= max(1.0, float(count)) if count.is_Integer else 1.0
    return terms
