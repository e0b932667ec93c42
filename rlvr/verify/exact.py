"""``exact``: the final answer, found as by ``math``, is the gold answer but for space and case."""

from rlvr.config import VerifierConfig
from rlvr.task import Prompt, Verdict
from rlvr.verify.answer import NoAnswer, answer_pattern, final_answer
from rlvr.verify.base import judged, unparseable


class Exact:
    """Equality of text."""

    def __init__(self, config: VerifierConfig) -> None:
        self._pattern = answer_pattern(config)

    def verify(self, prompt: Prompt, response_text: str) -> Verdict:
        try:
            answer = final_answer(response_text, self._pattern)
        except NoAnswer as reason:
            return unparseable(str(reason))
        return judged(_plain(answer) == _plain(prompt.answer), answer[:200])


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


VERIFIER = Exact
