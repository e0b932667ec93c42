"""``regex``: the final answer matches the pattern that the row gives as its answer, as a whole.

The final answer is found as by ``math``; a response without one is taken whole. Begin the pattern
with ``(?i)`` or ``(?s)`` for its flags, and with ``.*`` to search.
"""

import re

from rlvr.config import VerifierConfig
from rlvr.task import Prompt, Verdict
from rlvr.verify.answer import NoAnswer, answer_pattern, final_answer
from rlvr.verify.base import judged


class Regex:
    """A match of the whole answer. A pattern that explodes costs the worker, not the run."""

    def __init__(self, config: VerifierConfig) -> None:
        self._pattern = answer_pattern(config)

    def verify(self, prompt: Prompt, response_text: str) -> Verdict:
        try:
            answer = final_answer(response_text, self._pattern)
        except NoAnswer:
            answer = response_text.strip()
        try:
            return judged(bool(re.fullmatch(prompt.answer, answer)), answer[:200])
        except re.error as error:
            raise ValueError(f"'{prompt.answer[:200]}' is no pattern: {error}") from None


VERIFIER = Regex
