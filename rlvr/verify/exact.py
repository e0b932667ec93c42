"""``exact``: the final answer is the gold answer, letter by letter.

White space and case do not count. The final answer is found as by ``math``: the last box, else the
last ``Answer:`` line.
"""

from __future__ import annotations

from rlvr.task import Prompt, Verdict
from rlvr.verify.answer import NoAnswer, final_answer
from rlvr.verify.base import judged, unparseable


class Exact:
    """Equality of text."""

    def verify(self, prompt: Prompt, response_text: str) -> Verdict:
        """Compare the final answer of ``response_text`` with ``prompt.answer``."""
        try:
            answer = final_answer(response_text)
        except NoAnswer as reason:
            return unparseable(str(reason))
        return judged(_plain(answer) == _plain(prompt.answer), answer[:200])


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


VERIFIER = Exact
