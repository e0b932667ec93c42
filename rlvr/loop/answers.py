"""Where a response's final answer lies among its tokens, for credit methods that ask."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from rlvr.types import Answers, Group
from rlvr.verify.answer import NoAnswer, final_answer


class AnswerFinder:
    """Finds answer spans and tokenises gold answers.

    The sampled ids are never re-tokenised: the text is put together from the tokens' own pieces,
    so that a place in the text is a place among the tokens. ``pattern`` is what
    ``verifier.answer_pattern`` says of final answers.
    """

    def __init__(self, tokenizer: Any, pattern: re.Pattern[str] | None = None) -> None:
        self._tokenizer = tokenizer
        self._pattern = pattern
        self._piece = lru_cache(maxsize=None)(self._decode)

    def find(self, groups: Sequence[Group]) -> Answers:
        """Spans and gold answers of every response, in sample order."""
        spans = [self.span(r.token_ids) for g in groups for r in g.responses]
        gold = [self._encode(g.prompt.answer) for g in groups for _ in g.responses]
        reference = np.full((len(gold), max(map(len, gold), default=0)), -1, dtype=np.int64)
        for row, ids in zip(reference, gold, strict=True):
            row[: len(ids)] = ids
        return Answers(np.array(spans, dtype=np.int64).reshape(-1, 2), reference)

    def span(self, token_ids: Sequence[int] | np.ndarray) -> tuple[int, int]:
        """[start, end) of the tokens that hold the final answer; (-1, -1) if there is none."""
        pieces = [self._piece(int(i)) for i in token_ids]
        text = "".join(pieces)
        try:
            answer = final_answer(text, self._pattern)
        except NoAnswer:
            return -1, -1
        box = -1 if self._pattern else text.rfind("\\boxed")
        begin = text.find(answer, box) if box >= 0 else text.rfind(answer)
        if begin < 0:
            return -1, -1
        ends = np.cumsum([len(p) for p in pieces])
        first = int(np.searchsorted(ends, begin, side="right"))
        last = int(np.searchsorted(ends, begin + len(answer), side="left"))
        return first, last + 1

    def _decode(self, token_id: int) -> str:
        return self._tokenizer.decode([token_id], skip_special_tokens=True)

    def _encode(self, answer: str) -> list[int]:
        return self._tokenizer(answer, add_special_tokens=False)["input_ids"]
