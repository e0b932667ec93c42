r"""``math``: the final answer means the same as the gold answer.

Numbers are compared exactly, collections element by element, words as words, and all other
formulas by math-verify. The decisions in doubtful cases are listed in this folder's README.
"""

import re

from rlvr.config import VerifierConfig
from rlvr.task import Prompt, Verdict
from rlvr.verify.answer import NoAnswer, answer_pattern, closing_answer
from rlvr.verify.base import judged, unparseable
from rlvr.verify.formulas import latex, units
from rlvr.verify.formulas.bounds import MAX_CHARACTERS, NotParsed
from rlvr.verify.formulas.collection import split
from rlvr.verify.formulas.number import read_number
from rlvr.verify.formulas.symbolic import same
from rlvr.verify.formulas.units import PERCENT

_WARM_UP = (
    (r"\frac{\sqrt{3}}{2} + 2\pi", r"\frac{3 + 2x^2}{\sqrt{13}}"),
    (r"\left(3, \frac{\pi}{2}\right]", "[-2x, 7)"),
    (r"(-\infty, 2) \cup (3, \infty)", "x < 2"),
    (r"\begin{pmatrix} 1 & -2 \\ \frac13 & 0 \end{pmatrix}", r"\{1, 2x\}"),
    ("y = 2x + 3", "3x - 7y + 4 = 0"),
    (r"\log_2 (x+1) - e^{-x}", r"6 \sin x \cos^2 x"),
    (r"0.5x", "1+2i"),
)
_MAX_ELEMENTS = 64  # of a collection that is compared element by element


def verify_math(gold: str, prediction: str, pattern: re.Pattern[str] | None = None) -> Verdict:
    r"""Judge the final answer of a response.

    Args:
        gold: the right answer, in LaTeX or plain text, with or without ``\boxed``.
        prediction: the whole response; its last box or ``Answer:`` line is what counts, or
        pattern: what the first group of its last match in ``prediction`` holds.

    Nothing here limits the time: hostile text must be judged in a process that can be killed.
    Raises ValueError if ``gold`` is a broken box.
    """
    try:
        answer = closing_answer(prediction, pattern)
    except NoAnswer as reason:
        return unparseable(str(reason))
    if "\\boxed" in gold:
        try:
            gold = closing_answer(gold)
        except NoAnswer as reason:
            raise ValueError(f"the gold answer '{gold[:200]}': {reason}") from None
    shown = answer[:200]
    if answer == gold:
        return judged(True, shown)
    if len(answer) > max(MAX_CHARACTERS, 2 * len(gold)):
        return unparseable(f"an answer of {len(answer)} characters")
    try:
        return judged(_equal(gold, answer), shown)
    except NotParsed as reason:
        return unparseable(f"{shown} ({reason})")


class Math:
    """``verify_math`` as a verifier.

    A new one reads some formulas of every kind first: the parser learns its tables as it goes, and
    its first formulas take a hundred times as long as the later ones.
    """

    def __init__(self, config: VerifierConfig) -> None:
        self._pattern = answer_pattern(config)
        for gold, answer in _WARM_UP:
            _equal(gold, answer)

    def verify(self, prompt: Prompt, response_text: str) -> Verdict:
        return verify_math(prompt.answer, response_text, self._pattern)


def _equal(gold: str, answer: str) -> bool:
    """Whether two answers mean the same; raises NotParsed if ``answer`` means nothing."""
    gold, answer = latex.tidy(gold), latex.tidy(answer)
    if gold == answer:
        return True
    if (chosen := _equal_options(gold, answer)) is not None:
        return chosen
    if (values := _values(gold, answer)) is None:
        return False
    gold, answer = values
    if gold == answer:
        return True
    if latex.is_word(gold) or latex.is_word(answer):
        return latex.bare_word(gold) == latex.bare_word(answer)
    gold, gold_unit = units.split(gold)
    answer, unit = units.split(answer)
    if gold_unit and unit and gold_unit != unit:
        return False
    gold, answer = latex.formula(gold), latex.formula(answer)
    if gold == answer:
        return True

    gold_number, number = read_number(gold), read_number(answer)
    if gold_number and number:
        if number.equals(gold_number):
            return True
        if PERCENT in (gold_unit, unit) and gold_unit != unit:  # left out, or applied
            return (number.percent() if unit else number).equals(
                gold_number.percent() if gold_unit else gold_number
            )
        if not (gold_number.grouped or number.grouped):
            return False
    gold_numeral, numeral = latex.numeral(gold), latex.numeral(answer)
    if gold_numeral or numeral:  # a base left out is the gold answer's
        return gold_numeral is not None and (numeral or (answer, gold_numeral[1])) == gold_numeral
    if (parts := _equal_parts(gold, answer)) is not None:
        return parts
    return same(gold, answer)


def _equal_options(gold: str, answer: str) -> bool | None:
    r"""Options, where ``\text{(B)} 12`` is both B and 12; None if neither side is one."""
    theirs, ours = latex.option(gold), latex.option(answer)
    if theirs and ours:
        return theirs[0] == ours[0] and _equal(theirs[1], ours[1])
    if option := theirs or ours:
        other = answer if theirs else gold
        return latex.bare_word(other) == option[0].casefold() or (
            _equal(option[1], answer) if theirs else _equal(gold, option[1])
        )
    return None


def _values(gold: str, answer: str) -> tuple[str, str] | None:
    """Both without ``x =``, unless they are relations; None if they name different things."""
    gold_name, gold_value = latex.split_name(gold)
    name, value = latex.split_name(answer)
    if latex.has_relation(gold_value) or latex.has_relation(value):
        return gold, answer
    if gold_name and name and gold_name != name:
        # y = 3x and x = y/3 are one equation.
        return (gold, answer) if gold_name in value and name in gold_value else None
    return gold_value, value


def _equal_parts(gold: str, answer: str) -> bool | None:
    """Collections, element by element; None unless both are collections of alike kinds."""
    gold_parts, parts = split(gold), split(answer)
    if gold_parts is None or parts is None:
        either = gold_parts or parts
        return False if either and either.kind == "list" else None
    theirs, ours = gold_parts.elements, list(parts.elements)
    kinds = {gold_parts.kind, parts.kind}
    if len(kinds) > 1 and kinds != {"list", "set"}:
        return None if kinds & {"list", "cup"} else False  # (1, 2) may stand for 1, 2
    if len(theirs) != len(ours):
        return False if gold_parts.ordered else None  # a set may repeat an element
    if len(ours) > _MAX_ELEMENTS:
        raise NotParsed(f"more than {_MAX_ELEMENTS} elements")
    names = {latex.split_name(element)[0] for element in theirs}
    named = all(latex.split_name(element)[0] for element in (*theirs, *ours))
    if gold_parts.ordered or (len(names) > 1 and not named):  # x = 1, y = 2 is not 2, 1
        return all(_equal(g, a) for g, a in zip(theirs, ours, strict=True))
    for element in theirs:
        found = next((a for a in ours if _equal(element, a)), None)
        if found is None:
            return False
        ours.remove(found)
    return True


VERIFIER = Math
