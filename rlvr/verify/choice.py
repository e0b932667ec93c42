r"""``choice``: the letter of the right option, as in A to D.

The letter is what the final answer (found as by ``math``) begins with, alone or in front of the
option's text: ``C``, ``(C)``, ``C. Paris``, ``\text{C}``. Without such an answer, the last
``answer is C`` counts. A row's answer is a letter, written in any of these ways.
"""

import re

from rlvr.config import VerifierConfig
from rlvr.task import Prompt, Verdict
from rlvr.verify.answer import NoAnswer, answer_pattern, final_answer
from rlvr.verify.base import judged, unparseable

_LETTER = re.compile(
    r"(?:\\(?:text|textbf|mathrm|mathbf)\s{0,9}\{|[\s*_$({\[]|option\b|choice\b){0,20}"
    r"([A-Za-z])(?:[\s*_$)}\].:,]|$)",
    re.IGNORECASE,
)
_PHRASE = re.compile(r"\banswer\s{1,9}is:?\s{1,9}(?:option\s|choice\s)?[*_$(\[]{0,5}([A-Z])\b(?!')")


class Choice:
    """Equality of letters."""

    def __init__(self, config: VerifierConfig) -> None:
        self._pattern = answer_pattern(config)

    def verify(self, prompt: Prompt, response_text: str) -> Verdict:
        gold = _LETTER.match(prompt.answer)
        if gold is None:
            raise ValueError(f"the answer '{prompt.answer[:200]}' does not begin with a letter")
        try:
            found = _LETTER.match(final_answer(response_text, self._pattern))
        except NoAnswer:
            *_, found = [None, *_PHRASE.finditer(response_text)]
        if found is None:
            return unparseable("no letter of an option")
        letter = found[1].upper()
        return judged(letter == gold[1].upper(), letter)


VERIFIER = Choice
