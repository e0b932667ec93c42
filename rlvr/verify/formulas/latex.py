r"""Answers as strings of LaTeX: put into one form, in time linear in their length, or bounded.

Most of the work is math-verify's normalisation; what stands here is what it leaves, and what it
must not touch.
"""

import re
from itertools import accumulate

from latex2sympy2_extended.latex2sympy2 import NormalizationConfig, normalize_latex

_COMMANDS = """\u00d7times \u00b7cdot \u22c5cdot \u03c0pi \u221einfty \u2264le \u2265ge
\u2260ne \u2248approx \u222acup \u2229cap \u2208in \u00b1pm \u221asqrt \u2205emptyset \u211dreals"""
_UNICODE = (
    str.maketrans("\u2212\u2013\u00f7\u00a0\u202f\uff0c\uff08\uff09\uff05", "--/  ,()%")
    | {ord(pair[0]): f"\\{pair[1:]} " for pair in _COMMANDS.split()}
    | {0xB0: r"^\circ ", 0xB2: "^2", 0xB3: "^3"}
)

# What changes the look of a formula and nothing else. A row end of a matrix (\\) comes first, so
# that no half of it is taken for the start of a command.
_LOOK = re.compile(
    r"(?P<row_end>\\\\)"
    r"|(?P<nothing>\\!\s{0,9}|\\(?:[bB]igg?[lr]?|(?:display|text|script)style|bf|rm|it|left|right)"
    r"(?![a-zA-Z])\.?|\\(?:text)?color\s?\{[a-zA-Z]{0,20}\}|(?<=[0-9])\\,(?=[0-9]{3}))"
    r"|\\(?:mathbf|mathit|boldsymbol|bm|underline|phantom)\s?(?:\{(?P<plain>[^{}]{0,80})\})?"
    r"|(?P<space>\\[,;: ]|(?<!\\)~|\\q?quad(?![a-zA-Z])|\\[()\[\]])"
    r"|(?P<comma>,?\s?\\text\s?\{\s{0,9},\s{0,9}(?:and|or)\s{0,9}\}|,\s{0,9}(?=,|\\text\s?\{\s?and))"
    r"|(?P<reals>\\reals(?![a-zA-Z])|\\mathbb\s?(?:R(?![a-zA-Z])|\{\s?R\s?\})"
    r"|\\text\s?\{\s?[aA]ll reals?(?: numbers)?\s?\}|\b[aA]ll reals?(?: numbers)?\b)"
    r"|(?P<mtext>\\(?:mbox|mathrm|textbf|textrm|textit|textnormal|text)\s?(?=\{))"
    r"|(?P<open>\\lbrace(?![a-zA-Z]))|(?P<close>\\rbrace(?![a-zA-Z]))|(?P<power>\*\*)"
    r"|(?P<relation>\\(?:le|ge|ne))q(?:slant)?(?![a-zA-Z])"
    r"|(?P<empty>\\varnothing(?![a-zA-Z])|\\\{\s{0,9}\\\})"
    r"|(?P<root>\\sqrt\s?\[[^\[\]]{1,9}\])\s?(?P<radicand>[0-9a-zA-Z])"
    r"|\((?P<digits>[0-9A-F]{1,80})\)(?=_)"
)
_WRITTEN = {"row_end": r"\\", "nothing": "", "space": " ", "comma": ", ", "mtext": r"\text"}
_WRITTEN |= {"open": r"\{", "close": r"\}", "power": "^", "empty": r"\emptyset"}
_WRITTEN["reals"] = r"(-\infty,\infty)"

_LIBRARY = NormalizationConfig(malformed_operators=True, nits=True, boxed="none")
_EITHER = re.compile(r",?\s{0,9}(?:\\text\s?\{\s{0,9}or\s{0,9}\}|\bor\b)\s{0,9}")
_INEQUALITY = re.compile(r"[<>]|\\[lg]e(?![a-zA-Z])")
# {20,000} in a fraction
_GROUPED = re.compile(r"(?<=(?<!\\)\{)[0-9]{1,3}(?:,\s{0,3}[0-9]{3}){1,9}(?=\})")
_SINGLE = re.compile(r"([_^])\{([0-9a-zA-Z])\}(?![0-9a-zA-Z])")  # x_{1} is x_1
_NO_VALUE = re.compile(r"(?<=[0-9])_\{10\}$|\^\s?(?:\{\s?\\circ\s?\}|\\circ(?![a-zA-Z]))")
_WORD = re.compile(r"(?:\\text\s?\{\s*)?\(?([^{}\\^_()]{1,80})\)?(?:\s*\})?[.,]?")
_PLAIN_WORDS = re.compile(r"[A-Za-z]{4,40}|[A-Za-z]{2,40}(?: [A-Za-z]{1,40}){1,9}")
_BASE = re.compile(r"(-?[0-9][0-9A-Za-z]{0,80})_(?:\{\s?([0-9]{1,2})\s?\}|([0-9]))")
_NAME = r"\\?[a-zA-Z]+(?:_(?:\{[^{}]{1,20}\}|[0-9a-zA-Z]))?'?(?:\([a-z](?:,\s?[a-z])?\))?"
_NAMED = re.compile(rf"\s*({_NAME})\s*(?:=|\\in(?![a-zA-Z]))\s*")
_NAMED_LAST = re.compile(rf"([^=<>a-zA-Z]+)=\s*({_NAME})\s*")
_RELATION = re.compile(r"[=<>]|\\(?:[lg]e|ne|in|approx)(?![a-zA-Z])")
_OPTION = re.compile(
    r"(?:\\text\s?\{\s{0,9}\(?([A-J])\)?[.:]?\s{0,9}\}[.:]?|\(([A-J])\)\s)\s{0,9}"
    r"(-?(?:[0-9(\[$]|\\(?:\$|frac|sqrt|pi)).*)",
    re.DOTALL,
)


def tidy(answer: str) -> str:
    """``answer`` in one form: look-alike characters and commands are one, fonts are none."""
    text = answer.translate(_UNICODE)
    text = _LOOK.sub(_replace, text).strip().strip("*").strip()
    text = text.rstrip(".,;:").strip().removeprefix("$").removesuffix("$").rstrip(".,;: ")
    while text.startswith("{") and is_one_bracket(text):
        text = text[1:-1].strip()
    text = _GROUPED.sub(lambda found: re.sub(r"[,\s]", "", found.group()), text)
    return _SINGLE.sub(r"\1\2", text)


def formula(text: str) -> str:
    """What is tidy and no words, as the parser likes it."""
    if _INEQUALITY.search(text):
        text = _EITHER.sub(r" \\cup ", text)
    text = normalize_latex(_NO_VALUE.sub("", text), _LIBRARY)
    exact, _, approximate = text.partition(r"\approx")
    named = re.fullmatch(r"\\?[a-zA-Z]*\s*", exact)  # f \approx 3: no exact side
    return (approximate if approximate and named else exact).strip()


def _replace(found: re.Match[str]) -> str:
    if found["root"]:
        return f"{found['root']}{{{found['radicand']}}}"
    kind = found.lastgroup
    return found[kind] if kind in ("plain", "digits", "relation") else _WRITTEN.get(kind or "", "")


def option(text: str) -> tuple[str, str] | None:
    r"""``("B", "12")`` of ``\text{(B)} 12``: the letter of an option and what it says."""
    found = _OPTION.fullmatch(text)
    return (found[1] or found[2], found[3]) if found else None


def is_one_bracket(text: str) -> bool:
    """Whether the bracket that ``text`` begins with ends at its end."""
    depths = list(accumulate((c in "([{") - (c in ")]}") for c in text))
    return 0 in depths and depths.index(0) == len(text) - 1


def is_word(text: str) -> bool:
    r"""Whether it is ``\text{...}`` or plain English.

    Up to three letters without ``\text`` are a formula: a product of variables.
    """
    written = text.startswith(r"\text") or _PLAIN_WORDS.fullmatch(text)
    return bool(written) and bare_word(text) is not None


def bare_word(text: str) -> str | None:
    r"""``text`` as words, with ``\text`` and brackets or without; None if it is a formula."""
    if found := _WORD.fullmatch(text):
        return " ".join(re.sub(r",\s*and\b|,|\band\b", " , ", found[1]).split()).casefold()
    return None


def numeral(text: str) -> tuple[str, str] | None:
    """Digits and base of a numeral such as ``52_8``; else None."""
    found = _BASE.fullmatch(text)
    return (found[1], found[2] or found[3]) if found else None


def split_name(text: str) -> tuple[str, str]:
    r"""``("x", "5")`` of ``x = 5``, ``5 = x`` and ``x \in 5``; the name is "" if there is none."""
    if found := _NAMED.match(text):
        return found[1], text[found.end() :].strip()
    if found := _NAMED_LAST.fullmatch(text):
        return found[2], found[1].strip()
    return "", text


def has_relation(text: str) -> bool:
    """Whether ``text`` is an equation or inequality."""
    return _RELATION.search(text) is not None
