"""Where the final answers lie among the tokens of responses."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from rlvr.config import VerifierConfig
from rlvr.types import Sample
from rlvr.verify.answer import NoAnswer, answer_pattern, place_of_answer


class AnswerFinder:
    """What of the ``Driver`` protocol needs a tokenizer alone."""

    def __init__(self, verifier: VerifierConfig, tokenizer: Any) -> None:
        self.pad_token_id = int(tokenizer.pad_token_id or 0)
        self._tokenizer = tokenizer
        self._pattern = answer_pattern(verifier)
        self._piece = cache(lambda i: str(tokenizer.decode([i], skip_special_tokens=True)))

    def answer_span(self, sample: Sample) -> tuple[int, int]:
        """[start, end) of the final answer among the response's tokens; (-1, -1): there is none.

        The sampled ids are never re-tokenised: the text is put together from the tokens' own
        pieces, so that a place in the text is a place among the tokens.
        """
        skipped = sample.response.last_turn
        pieces = self.pieces(sample.response.token_ids[skipped:].tolist())
        text = "".join(pieces)
        try:
            begin, end = place_of_answer(text, self._pattern)
        except NoAnswer:
            return -1, -1
        ends = np.cumsum([len(p) for p in pieces])
        first = int(np.searchsorted(ends, begin, side="right"))
        last = int(np.searchsorted(ends, end, side="left"))
        return skipped + first, skipped + last + 1

    def pieces(self, token_ids: Sequence[int]) -> list[str]:
        """What each token adds to the text, without special tokens."""
        return [self._piece(i) for i in token_ids]

    def tokenize(self, text: str) -> list[int]:
        """Token ids of ``text``, without special ones."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids
