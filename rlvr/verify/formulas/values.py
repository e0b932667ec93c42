"""Equality of expressions by their values: exact, or at a precision scaled to their size.

Two expressions with variables are compared at several points. A difference at one refutes them;
agreement at all proves nothing where a function has corners or steps.
"""

import random
from fractions import Fraction
from itertools import chain

import sympy
from sympy import Expr, Float, Rational, Symbol

from rlvr.verify.formulas import bounds
from rlvr.verify.formulas.number import close

_SURPLUS = 50  # digits beyond those that the numbers in the expressions have
_MAX_DIGITS = 2_500  # of an irrational number
_WITH_FLOATS = 11
_STEPS = (sympy.floor, sympy.ceiling, sympy.Mod, sympy.sign)
_CORNERS = (sympy.Abs, sympy.Max, sympy.Min, sympy.Piecewise, *_STEPS)
_INTEGER = (sympy.Sum, sympy.Product, sympy.factorial, sympy.binomial)
_dice = random.Random(0)
_POINTS = [[Rational(_dice.randint(-700, 700), 301) for _ in range(12)] for _ in range(3)]
_POINTS[0] = [abs(value) for value in _POINTS[0]]
_POSITIVE = [[Rational(_dice.randint(2, 15)) for _ in range(12)] for _ in range(6)]


def precision(*expressions: object) -> int:
    """Decimal digits that keep different values of such expressions apart."""
    return _SURPLUS + 2 * int(sum(map(bounds.digits, expressions)))


def equal(gold: Expr, prediction: Expr) -> bool | None:
    """Whether two expressions have the same value; None if values do not tell."""
    symbols = sorted(gold.free_symbols | prediction.free_symbols, key=str)
    floats = gold.has(Float) or prediction.has(Float)
    if not symbols:
        gold, prediction = gold.doit(), prediction.doit()
        if isinstance(gold, Rational) and isinstance(prediction, Rational):
            return bool(gold == prediction)
        return _agree(gold, prediction, {}, 0 if floats else precision(gold, prediction))
    if len(symbols) > len(_POINTS[0]) or isinstance(gold, Symbol) or isinstance(prediction, Symbol):
        return None  # a symbol may be a word
    either = sympy.Tuple(gold, prediction)
    points = _POSITIVE if either.has(*_INTEGER) else _POINTS
    digits = _WITH_FLOATS if floats else precision(gold, prediction)
    at = (dict(zip(symbols, point, strict=False)) for point in points)
    told = [_agree(gold, prediction, point, digits) for point in at]
    if False in told:
        return False
    return None if None in told or either.has(*_CORNERS) else True


def _agree(gold: Expr, prediction: Expr, point: dict[Expr, Rational], digits: int) -> bool | None:
    """Whether the values at ``point`` agree to ``digits``; 0 allows for rounded decimals."""
    if digits > _MAX_DIGITS:
        raise bounds.NotParsed("too many digits to compare")
    to = {"n": digits + 10 if digits else 30, "maxn": 2 * digits + 100, "subs": point}
    values = [expression.evalf(**to).as_real_imag() for expression in (gold, prediction)]
    parts = list(chain(*values))
    if any(part in (sympy.nan, sympy.zoo, sympy.oo, -sympy.oo) for part in parts):
        return None if point else bool(gold == prediction and gold not in (sympy.nan, sympy.zoo))
    if not all(isinstance(part, Float | Rational) for part in parts):
        return None
    if not digits:
        exact = [Fraction(str(part)) for part in parts]
        return close(exact[2], exact[0]) and close(exact[3], exact[1])
    scale = max(0 if digits == _WITH_FLOATS else 1, *map(abs, parts))
    allowed = Float(10, digits) ** -digits * scale
    return all(abs(a - b) <= allowed for a, b in zip(*values, strict=True))
