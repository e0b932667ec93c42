r"""Units, currencies, percent signs and words of magnitude at the end of an answer.

A unit may be left out or added, and the names of things ("12 apples") say nothing; but hours are
not minutes, and a million is a factor.
"""

import re

Unit = frozenset[tuple[str, int]]  # measures and their powers; empty: none known

_MEASURES = """m meter metre|cm centimeter centimetre|mm millimeter millimetre|km kilometer
kilometre|ft foot feet|in inch inches|yd yard|mi mile|s sec second|min minute|h hr hour|day|week
|month|yr year|g gram|kg kilogram|mg milligram|lb pound|oz ounce|l liter litre|ml milliliter
millilitre|gal gallon|dollar usd|cent|euro|degree deg|rad radian|% percent|am|pm|j joule|n newton|
c coulomb|v volt|w watt|k kelvin|hz hertz|pa pascal|mol mole|ev|kcal|cal calorie|t tesla|ohm|nm
|acre|erg|celsius|fahrenheit"""
_NAMES = {name: names.split()[0] for names in _MEASURES.split("|") for name in names.split()}
_MAGNITUDES = {"dozen": "12", "hundred": "10^2", "thousand": "10^3"}
_MAGNITUDES |= {"million": "10^6", "billion": "10^9", "trillion": "10^{12}"}
PERCENT: Unit = frozenset({("%", 1)})

_POWER = r"(?:\s?\^\s?(?:\{\s?[+-]?[0-9]\s?\}|[+-]?[0-9]))?"
_DEGREE = r"\^\s?\{?\s?\\circ(?![a-zA-Z])\s?\}?(?:\s?(?:\\text\s?\{)?\s?[CFK](?![a-zA-Z])\s?\}?)?"
_ARC = r"(?<=[0-9])\s?\^\s?\{?(?:\s?\\prime){1,2}\s?\}?"
_GROUP = rf"\\text\s?\{{(?!\s?[eid]\s?\}})[^{{}}]{{0,80}}\}}{_POWER}|{_DEGREE}|{_ARC}|\\?%|percent"
_WRITTEN = re.compile(rf"(?:(?:\s|\\cdot|/){{0,5}}(?:{_GROUP}))+\s?$")
_CURRENCY = re.compile(r"\\?\$\s?|[€£]\s?")
_AMOUNT = re.compile(
    r"((?:\\?\$)?[+-]?[0-9][0-9.,/:]{0,40}(?:\s?\\(?:times|cdot)\s?10\s?\^(?:\{[^{}]{1,5}\}|[0-9]))?)"
    r"(\s?)([a-zA-Z][a-zA-Z0-9 /^{}.-]{0,60})"
)
_FUNCTION = re.compile(r"(?:and|or|sqrt|pi|inf|infinity|sin|cos|tan|log|ln|mod|choose)\b")
_COUNTED = re.compile(r"[a-z]{3,20}(?:\s[a-z]{2,20}){0,3}\.?")
_TOKEN = re.compile(r"([a-zA-Z%.]+)(?:[\s}]*\^[\s{]*([+-]?[0-9]))?|(/)")


def split(text: str) -> tuple[str, Unit]:
    """``text`` without its unit, and that. ``text`` is tidy (see ``latex.tidy``)."""
    unit = ""
    if found := _CURRENCY.match(text):
        unit, text = "dollar " if "$" in found.group() else "euro ", text[found.end() :]
    found = _WRITTEN.search(text) if text[-1:] in "}%tCFK0123456789c" else None
    if found and found.start():
        unit, text = unit + found.group(), text[: found.start()]
    elif (bare := _AMOUNT.fullmatch(text)) and _is_unit(*bare.groups()):
        unit, text = unit + bare[3], bare[1]
    elif not unit:
        return text, frozenset()
    return _scaled(text.strip(), unit)


def _is_unit(amount: str, space: str, rest: str) -> bool:
    """Whether ``rest``, after a number, is a unit: letters alone may be variables."""
    if _FUNCTION.match(rest):
        return False
    tokens = [token for token, _, _ in _TOKEN.findall(rest) if token]
    known = all(_name(token) in _NAMES or _name(token) == "per" for token in tokens)
    if known and len(rest) == 1:
        return bool(space) and ("." in amount or "10" in amount) and rest in "CJNVWKTmsg"
    return known or _COUNTED.fullmatch(rest) is not None


def _name(token: str) -> str:
    name = token.replace(".", "").lower()
    return name if name in _NAMES else name.removesuffix("s")


def _scaled(text: str, written: str) -> tuple[str, Unit]:
    unit, sign, power = [], 1, 1
    written = written.replace(r"\text", " ").replace("circ", "deg")
    for token, exponent, slash in _TOKEN.findall(written):
        name = _name(token)
        if slash or name == "per":
            sign = -1
        elif name in ("square", "sq", "cubic", "cu"):
            power = 2 if name[0] == "s" else 3
        elif name in _MAGNITUDES:
            text += rf" \times {_MAGNITUDES[name]}"
        elif name in ("mph", "kmh", "kmph"):
            unit += [("mi" if name[0] == "m" else "km", 1), ("h", -1)]
        elif name in _NAMES:
            unit.append((_NAMES[name], sign * power * int(exponent or 1)))
            sign = power = 1
    return text, frozenset(unit)
