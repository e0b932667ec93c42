"""The answer's tokens, found without re-tokenising."""

from __future__ import annotations

import re

import pytest

from rlvr.loop.answers import AnswerFinder
from rlvr.types import Group, Outcome, Prompt, Response, Verdict

PATTERN = re.compile("#### (.*)")


class Characters:
    """Every token is a few characters; some answers straddle tokens."""

    def __init__(self, pieces):
        self.pieces = pieces

    def decode(self, ids, *, skip_special_tokens):
        return self.pieces[ids[0]]

    def __call__(self, text, *, add_special_tokens):
        return {"input_ids": [ord(c) for c in text]}


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["1+1", "=2 ", "\\boxed{", "2", "}"], (3, 4)),
        (["so \\bo", "xed{1", "0", "5} ok"], (1, 4)),
        (["5 then \\boxed{5}", " and \\boxed{", "7", "1", "}", ""], (2, 4)),
        (["Answer: ", "4", "2"], (1, 3)),
        (["no", " answer", " here"], (-1, -1)),
        (["\\boxed{", "never closed"], (-1, -1)),
    ],
)
def test_span(pieces, expected):
    finder = AnswerFinder(Characters(pieces))
    assert finder.span(list(range(len(pieces)))) == expected


def test_span_of_a_configured_pattern():
    finder = AnswerFinder(Characters(["\\boxed{7} ", "#### ", "7", "1", "\n\\boxed{2}"]), PATTERN)
    assert finder.span(list(range(5))) == (2, 4)
    finder = AnswerFinder(Characters(["\\boxed{", "7", "}"]), PATTERN)
    assert finder.span(list(range(3))) == (-1, -1)


def test_gold_answers_are_padded():
    finder = AnswerFinder(Characters(["a", "b"]))
    response = Response([0, 1], [0, 0], [0, 0], "stop")
    verdict = Verdict(0.0, Outcome.INCORRECT)
    groups = [
        Group(Prompt(str(i), [1], "", gold, "exact"), [response] * 2, [verdict] * 2)
        for i, gold in enumerate(["12", "3"])
    ]
    answers = finder.find(groups)
    assert answers.span.tolist() == [[-1, -1]] * 4
    assert answers.reference.tolist() == [[49, 50], [49, 50], [51, -1], [51, -1]]
