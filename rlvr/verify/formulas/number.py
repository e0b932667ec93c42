"""Answers that are plain numbers, compared exactly and without a computer algebra system."""

import re
from dataclasses import dataclass, replace
from fractions import Fraction

_DECIMAL = r"(?:[0-9]{1,300}(?:\.[0-9]{0,300})?|\.[0-9]{1,300})"
_TEN = r"10\s*\^\s*(?:\{\s*([+-]?[0-9]{1,3})\s*\}|([+-]?[0-9]))"
_PLAIN = re.compile(
    rf"({_DECIMAL})(?:[eE]([+-]?[0-9]{{1,3}})|\s*(?:\\times|\\cdot|\*)\s*{_TEN})?|{_TEN}"
)
_GROUPED = re.compile(
    r"[0-9]{1,3}(?:,[0-9]{3}){1,99}(?:\.[0-9]{1,300})?|[0-9]{1,3}(?: [0-9]{3}){1,99}"
)
_ARGUMENT = rf"\s*(?:\{{\s*([+-]?\s*{_DECIMAL})\s*\}}|([0-9]))"
_FRACTION = re.compile(rf"([0-9]{{1,300}})?\s*\\frac{_ARGUMENT}{_ARGUMENT}")
_RATIO = re.compile(rf"(?:([0-9]{{1,300}})\s+)?({_DECIMAL})()\s*/\s*({_DECIMAL})()")
_PERIODIC = re.compile(r"([0-9]{0,99})\.([0-9]{0,99})\\overline\s*\{\s*([0-9]{1,99})\s*\}")
_TOLERANCE = Fraction(1, 10**6)


@dataclass(frozen=True, slots=True)
class Number:
    """A number and how it was written."""

    value: Fraction
    decimal: bool  # with a decimal point or an exponent: may be rounded
    grouped: bool  # 1,234: may also be read as a list

    def equals(self, gold: "Number") -> bool:
        """Equality; a decimal on either side leaves room for rounding."""
        if self.value == gold.value:
            return True
        return (self.decimal or gold.decimal) and close(self.value, gold.value)

    def percent(self) -> "Number":
        return replace(self, value=self.value / 100)


def close(value: Fraction, gold: Fraction) -> bool:
    """Within one part in a million below 1, within a millionth above."""
    return abs(value - gold) <= _TOLERANCE * min(Fraction(1), abs(gold))


def read_number(text: str) -> Number | None:
    r"""The number that ``text`` spells, or None.

    Integers (``1234``, ``1,234``), decimals (``0.1\overline{6}``), ``6.02 \times 10^{23}``,
    ``3e8``, ``a/b``, ``\frac{a}{b}`` and mixed numbers, each with a sign. ``text`` is tidy.
    """
    if len(text) > 700:
        return None
    body = text.strip()
    sign, body = (-1 if body[:1] == "-" else 1), body[body[:1] in ("+", "-") :].lstrip()
    if found := _PLAIN.fullmatch(body):
        digits = found[1] or "1"
        exponent = int(next(filter(None, found.groups()[1:]), "0"))
        decimal = "." in digits or (exponent < 0 and found[1] is not None)
        return Number(sign * _decimal(digits) * Fraction(10) ** exponent, decimal, False)
    if _GROUPED.fullmatch(body):
        return Number(sign * _decimal(body), "." in body, True)
    if found := _FRACTION.fullmatch(body) or _RATIO.fullmatch(body):
        above, below = found[2] or found[3], found[4] or found[5]
        if not _decimal(below):
            return None
        value = Fraction(found[1] or 0) + _decimal(above) / _decimal(below)
        return Number(sign * value, "." in above + below, False)
    if found := _PERIODIC.fullmatch(body):
        whole, fixed, period = found.groups()
        value = int(whole + fixed or 0) + Fraction(int(period), 10 ** len(period) - 1)
        return Number(sign * value / 10 ** len(fixed), False, False)
    return None


def _decimal(digits: str) -> Fraction:
    return Fraction(re.sub("[, ]", "", digits).removesuffix("."))
