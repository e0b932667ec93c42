"""Answers that are plain numbers, compared exactly and without a computer algebra system."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_INTEGER = r"[0-9]{1,300}"
_DECIMAL = r"(?:[0-9]{1,300}(?:\.[0-9]{0,300})?|\.[0-9]{1,300})"
_TEN = r"10\s*\^\s*(?:\{\s*([+-]?[0-9]{1,3})\s*\}|([+-]?[0-9]))"
_PLAIN = re.compile(
    rf"({_DECIMAL})(?:[eE]([+-]?[0-9]{{1,3}})|\s*(?:\\times|\\cdot|\*)\s*{_TEN})?|{_TEN}"
)
_PERIODIC = re.compile(r"([0-9]{0,99})\.([0-9]{0,99})\\overline\s*\{\s*([0-9]{1,99})\s*\}")
_GROUPED = re.compile(
    r"[0-9]{1,3}(?:,[0-9]{3}){1,99}(?:\.[0-9]{1,300})?|[0-9]{1,3}(?: [0-9]{3}){1,99}"
)
_ARGUMENT = rf"\s*(?:\{{\s*([+-]?\s*{_DECIMAL})\s*\}}|([0-9]))"
_FRACTION = re.compile(rf"({_INTEGER})?\s*\\frac{_ARGUMENT}{_ARGUMENT}")
_RATIO = re.compile(rf"(?:({_INTEGER})\s+)?({_DECIMAL})\s*/\s*({_DECIMAL})")
_SIGN = re.compile(r"\s*([+-]?)\s*")

_TOLERANCE = Fraction(1, 10**6)


@dataclass(frozen=True, slots=True)
class Number:
    """A number and how it was written."""

    value: Fraction
    decimal: bool  # with a decimal point or an exponent: may be rounded
    grouped: bool  # 1,234: may also be read as a list

    def equals(self, gold: Number) -> bool:
        """Equality; a decimal on either side leaves room for rounding."""
        if self.value == gold.value:
            return True
        return (self.decimal or gold.decimal) and close(self.value, gold.value)

    def percent(self) -> Number:
        """A hundredth of the number."""
        return Number(self.value / 100, self.decimal, self.grouped)


def close(value: Fraction, gold: Fraction) -> bool:
    """Within one part in a million below 1, within a millionth above."""
    return abs(value - gold) <= _TOLERANCE * min(Fraction(1), abs(gold))


def read_number(text: str) -> Number | None:
    r"""The number that ``text`` spells, or None.

    Integers (``1234``, ``1,234``), decimals, ``6.02 \times 10^{23}``, ``3e8``, ``a/b``,
    ``\frac{a}{b}`` and mixed numbers, each with a sign. ``text`` is tidy (see ``latex.tidy``).
    """
    if len(text) > 700:
        return None
    sign = _SIGN.match(text)
    assert sign is not None  # it matches the empty string
    body = text[sign.end() :].rstrip()
    number = _plain(body) or _grouped(body) or _fraction(body) or _periodic(body)
    if number is not None and sign.group(1) == "-":
        return Number(-number.value, number.decimal, number.grouped)
    return number


def _plain(body: str) -> Number | None:
    found = _PLAIN.fullmatch(body)
    if found is None:
        return None
    digits, *exponents = found.groups()
    exponent = int(next(filter(None, exponents), "0"))
    decimal = digits is not None and ("." in digits or exponent < 0)
    return Number(_decimal(digits or "1") * Fraction(10) ** exponent, decimal, False)


def _periodic(body: str) -> Number | None:
    r"""``0.1\overline{6}``."""
    found = _PERIODIC.fullmatch(body)
    if found is None:
        return None
    whole, fixed, period = found.groups()
    repeated = Fraction(int(period), 10 ** len(period) - 1)
    value = int(whole + fixed or 0) + repeated
    return Number(value / 10 ** len(fixed), False, False)


def _grouped(body: str) -> Number | None:
    if _GROUPED.fullmatch(body) is None:
        return None
    digits = body.replace(",", "").replace(" ", "")
    return Number(_decimal(digits), "." in digits, True)


def _fraction(body: str) -> Number | None:
    if found := _FRACTION.fullmatch(body):
        whole, a, a1, b, b1 = found.groups()
        above, below = a or a1, b or b1
    elif found := _RATIO.fullmatch(body):
        whole, above, below = found.groups()
    else:
        return None
    numerator, denominator = _decimal(above), _decimal(below)
    if denominator == 0:
        return None
    value = Fraction(whole or 0) + numerator / denominator
    return Number(value, "." in above or "." in below, False)


def _decimal(digits: str) -> Fraction:
    text = digits.replace(" ", "")
    return Fraction(text.rstrip(".") if text.endswith(".") else text)
