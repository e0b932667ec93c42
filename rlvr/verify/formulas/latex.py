r"""Answers as strings of LaTeX: put into one form, and taken apart at the top level.

Everything here is linear in the length of the answer, or bounded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_UNICODE = str.maketrans(
    dict(zip("\u2212\u2013\u00f7\u00a0\uff0c\uff08\uff09\uff05", "--/ ,()%", strict=True))
    | {
        "\u00d7": r"\times ",
        "\u00b7": r"\cdot ",
        "\u22c5": r"\cdot ",
        "\u03c0": r"\pi ",
        "\u221e": r"\infty ",
        "\u2264": r"\le ",
        "\u2265": r"\ge ",
        "\u2260": r"\ne ",
        "\u2248": r"\approx ",
        "\u222a": r"\cup ",
        "\u2229": r"\cap ",
        "\u2208": r"\in ",
        "\u00b1": r"\pm ",
        "\u221a": r"\sqrt ",
        "\u00b0": r"^\circ ",
        "\u00b2": "^2",
        "\u00b3": "^3",
    }
)

# What changes the look of a formula and nothing else. A row end of a matrix (\\) comes first, so
# that no half of it is taken for the start of a command.
_LOOK = re.compile(
    r"(?P<row_end>\\\\)"
    r"|(?P<nothing>\\[!$]\s{0,9}|\$|\\(?:left|right|[bB]igg?[lr]?)(?![a-zA-Z])\.?"
    r"|\\(?:display|text|script)style(?![a-zA-Z])|(?<=[0-9])\\,(?=[0-9]{3}))"
    r"|(?P<space>\\[,;: ]|~|\\q?quad(?![a-zA-Z])|\\[()\[\]])"
    r"|(?P<comma>\{,\}|\\text\s?\{\s{0,9}(?:,\s{0,9})?(?:and|or)\s{0,9}\})"
    r"|(?P<frac>\\[dtc]frac(?![a-zA-Z]))"
    r"|(?P<text>\\(?:mbox|textbf|textrm|textit|textnormal|mathrm|mathbf|mathit|rm)\s?(?=\{))"
    r"|(?P<degree>\^\s?\{?\s?\\circ(?![a-zA-Z])\s?\}?(?:\s?(?:\\text|\\mathrm)\s?\{\s?[CFK]\s?\}"
    r"|\s?[CFK](?![a-zA-Z]))?|\\degree(?![a-zA-Z]))"
    r"|(?P<brace>\\[lr]brace(?![a-zA-Z]))"
    r"|(?P<relation>\\(?:leq|geq|neq)(?![a-zA-Z]))"
    r"|(?P<power>\*\*)"
)
_REPLACEMENT = {
    "row_end": r"\\",
    "nothing": "",
    "space": " ",
    "comma": ",",
    "frac": r"\frac",
    "text": r"\text",
    "degree": "",
    "power": "^",
}

_GROUPED = re.compile(r"(?<=(?<!\\)\{)[0-9]{1,3}(?:,[0-9]{3}){1,9}(?=\})")  # {20,000} in a fraction
_SINGLE = re.compile(r"([_^])\{([0-9a-zA-Z])\}(?![0-9a-zA-Z])")  # x_{1} is x_1
_PERCENT = re.compile(r"\s{0,9}(?:\\?%|percent|\\text\s?\{\s{0,9}(?:percent|\\?%)\s{0,9}\})$")
_UNIT = re.compile(r"(?<=[0-9})\s])\s{0,9}\\text\s?\{[^{}]{0,80}\}\s?(?:\^\s?\{?-?[0-9]\}?)?$")
_BARE_UNIT = re.compile(
    r"(?P<amount>[+-]?[0-9][0-9.,/]{0,40})(?:\s?(?:[mck]m|[km]g|m[il]|ft|in|hr|lb|oz)(?:\^[0-9])?"
    r"|\s(?!(?:and|or|sqrt|pi|inf|infinity)\b)[a-z]{3,20}(?:\s[a-z]{2,20}){0,3})\.?"
)
_WORD = re.compile(r"(?:\\text\s?\{\s*)?\(?([^{}\\^_()]{1,80})\)?(?:\s*\})?[.,]?")
_PLAIN_WORDS = re.compile(r"[A-Za-z]{4,40}|[A-Za-z]{2,40}(?: [A-Za-z]{1,40}){1,9}")
_BASE = re.compile(r"([0-9A-Za-z]{1,80})_(?:\{\s?([0-9]{1,2})\s?\}|([0-9]))")
_NAME = re.compile(
    r"\s*(\\?[a-zA-Z]+(?:_(?:\{[^{}]{1,20}\}|[0-9a-zA-Z]))?'?(?:\([a-z](?:,\s?[a-z])?\))?)"
    r"\s*(?:=|\\in(?![a-zA-Z]))\s*"
)
_RELATION = re.compile(r"[=<>]|\\(?:[lg]eq?|ne|in|approx)(?![a-zA-Z])")


@dataclass(frozen=True, slots=True)
class Parts:
    """The elements of a list, set, tuple, interval or union."""

    kind: str  # "set" | "cup" | the brackets: "()", "(]", "[)", "[]"
    elements: list[str]

    @property
    def ordered(self) -> bool:
        """Whether the place of an element matters."""
        return self.kind not in ("set", "cup")


def tidy(answer: str) -> tuple[str, bool]:
    r"""``answer`` in one form, and whether a percent sign was taken from its end.

    Spacing, ``\left`` and ``\right``, dollar signs, fonts, degrees, units and a full stop at the
    end go; look-alike characters and commands become one.
    """
    text = _LOOK.sub(_replace, answer.translate(_UNICODE)).strip().strip("*").strip()
    text = _SINGLE.sub(r"\1\2", _GROUPED.sub(_ungrouped, text.rstrip(".,;:").strip()))
    text = _without_approximation(text)
    without_percent = _PERCENT.sub("", text)
    percent = without_percent != text and without_percent != ""
    return _without_unit(without_percent if percent else text), percent


def _replace(found: re.Match[str]) -> str:
    kind = found.lastgroup or ""
    if kind == "brace":
        return r"\{" if found.group() == r"\lbrace" else r"\}"
    if kind == "relation":
        return found.group()[:-1]
    return _REPLACEMENT[kind]


def _ungrouped(found: re.Match[str]) -> str:
    return found.group().replace(",", "")


def _without_approximation(text: str) -> str:
    """The exact side of ``a \\approx b``; b if there is no a or if a is a name."""
    exact, _, approximate = text.partition(r"\approx")
    named = re.fullmatch(r"\\?[a-zA-Z]*\s*", exact)
    return approximate.strip() if approximate and named else exact.strip()


def _without_unit(text: str) -> str:
    if found := _BARE_UNIT.fullmatch(text):
        return found["amount"]
    for _ in range(6):  # kcal m^{-2} yr^{-1}
        shorter = _UNIT.sub("", text).strip()
        if shorter in ("", text):
            return text
        text = shorter
    return text


def word(text: str) -> str | None:
    r"""The words of ``\text{...}`` or of plain English, in lower case; else None.

    Up to three letters without ``\text`` are a formula: a product of variables.
    """
    if text.startswith(r"\text") or _PLAIN_WORDS.fullmatch(text):
        return bare_word(text)
    return None


def bare_word(text: str) -> str | None:
    r"""``text`` as words, with ``\text`` and brackets or without; None if it is a formula."""
    found = _WORD.fullmatch(text)
    if found is None:
        return None
    return " ".join(found.group(1).replace(",", " , ").split()).casefold()


def numeral(text: str) -> tuple[str, str] | None:
    """Digits and base of a numeral such as ``52_8``; else None."""
    found = _BASE.fullmatch(text)
    if found is None or not found.group(1)[0].isdigit():
        return None
    return found.group(1), found.group(2) or found.group(3)


def split_name(text: str) -> tuple[str, str]:
    r"""``("x", "5")`` of ``x = 5`` and of ``x \in 5``; the name is "" if there is none."""
    found = _NAME.match(text)
    if found is None:
        return "", text
    return found.group(1), text[found.end() :].strip()


def has_relation(text: str) -> bool:
    """Whether ``text`` is an equation or inequality."""
    return _RELATION.search(text) is not None


def split(text: str) -> Parts | None:
    """The elements of ``text`` if it is a collection, else None."""
    union = _split_at(text, r"\cup")
    if len(union) > 1:
        return Parts("cup", union)
    elements = _split_at(text, ",", ";")
    if len(elements) > 1:
        return Parts("set", _both_signs(elements))
    if text.startswith(r"\{") and text.endswith(r"\}"):
        return Parts("set", _both_signs(_split_at(text[2:-2], ",", ";")))
    if text[:1] in ("(", "[") and text[-1:] in (")", "]") and _is_one_bracket(text):
        elements = _split_at(text[1:-1], ",", ";")
        if len(elements) > 1:
            return Parts(text[0] + text[-1], elements)
        return None
    elements = _both_signs([text])
    return Parts("set", elements) if len(elements) > 1 else None


def _split_at(text: str, *separators: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for i, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif depth == 0 and text.startswith(separators, i):
            parts.append(text[start:i].strip())
            start = i + len(next(s for s in separators if text.startswith(s, i)))
    parts.append(text[start:].strip())
    return parts


def _is_one_bracket(text: str) -> bool:
    depth = 0
    for i, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
            if depth == 0:
                return i == len(text) - 1
    return False


def _both_signs(elements: list[str]) -> list[str]:
    r"""Write an element with one ``\pm`` as two."""
    written = []
    for element in elements:
        if element.count(r"\pm") == 1:
            written.append(element.replace(r"\pm", "+").replace(r"\mp", "-"))
            written.append(element.replace(r"\pm", "-").replace(r"\mp", "+"))
        else:
            written.append(element)
    return written
