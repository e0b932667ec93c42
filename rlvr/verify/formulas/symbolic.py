"""Answers as sympy expressions: parsed by math-verify's parser, compared by values or by it.

math-verify's own time-outs use signals; they are off here, because the process that runs this is
killed from outside. ``bounds`` refuses what would cost such a kill each time.
"""

import logging
import re
from functools import lru_cache
from typing import TypeAlias

from latex2sympy2_extended.latex2sympy2 import latex2sympy
from math_verify.grader import verify
from sympy import Basic, Expr, Float, I, MatrixBase

from rlvr.verify.formulas import bounds, values
from rlvr.verify.formulas.bounds import NotParsed

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its time-outs are off

_IMAGINARY = re.compile(r"(?<![a-zA-Z\\])i(?![a-zA-Z])")
_EQUALS = re.compile(r"(?<![\\<>!])=")

Expression: TypeAlias = Basic | MatrixBase


def same(gold: str, prediction: str) -> bool:
    """Whether two formulas, both tidy (see ``latex.tidy``), mean the same.

    Raises NotParsed if ``prediction`` cannot be read or the two cannot be compared; a ``gold``
    that cannot be read equals nothing but itself.
    """
    # i is a variable where neither side can mean the imaginary unit.
    imaginary = bool(_IMAGINARY.search(gold) or _IMAGINARY.search(prediction))
    read_prediction = _read(prediction, imaginary)
    if isinstance(read_prediction, str):
        raise NotParsed(read_prediction)
    read_gold = _read(gold, imaginary)
    if isinstance(read_gold, str):
        return False
    try:
        return _same(read_gold, read_prediction)
    except RecursionError:
        raise NotParsed("too deep to compare") from None
    except (NotParsed, MemoryError):
        raise
    except Exception:  # sympy cannot compare the two: it has no common superclass for that
        return False


def _same(gold: Expression, prediction: Expression) -> bool:
    if isinstance(gold, MatrixBase) and isinstance(prediction, MatrixBase):
        pairs = zip(gold, prediction, strict=False)
        return gold.shape == prediction.shape and all(_same(g, p) for g, p in pairs)
    if isinstance(gold, Expr) and isinstance(prediction, Expr):
        if (equal := values.equal(gold, prediction)) is not None:
            return equal
    floats = gold.has(Float) or prediction.has(Float)
    bounds.check_algebra(gold)
    bounds.check_algebra(prediction)
    return bool(
        verify(
            gold,
            prediction,
            allow_set_relation_comp=True,  # 0 < x < 1 is (0, 1), whichever side writes which
            numeric_precision=15 if floats else values.precision(gold, prediction),
            timeout_seconds=None,
            raise_on_error=True,
        )
    )


@lru_cache(maxsize=2048)
def _read(text: str, imaginary: bool) -> Expression | str:
    """The expression, or why there is none. Cached: a group shares its gold answer."""
    try:
        bounds.check_text(text)
        chain = _EQUALS.split(text)
        if len(chain) > 2 and not set(text) & set(",;"):
            text = chain[-1]
        expression = latex2sympy(text, None, None if imaginary else True, normalization_config=None)
        bounds.digits(expression)
    except NotParsed as error:
        return str(error)
    except MemoryError:
        raise
    except Exception as error:  # the parser raises bare Exception
        return f"not a formula: {str(error).splitlines()[0] if str(error) else error!r}"
    if expression is None:
        return "not a formula"
    if imaginary and isinstance(expression, Basic):
        unit = [s for s in expression.free_symbols if str(s) == "i"]
        expression = expression.xreplace(dict.fromkeys(unit, I))
    return expression
