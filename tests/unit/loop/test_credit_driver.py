"""The answer's tokens, found without re-tokenising."""

from __future__ import annotations

import numpy as np
import pytest

from rlvr.config import RunConfig
from rlvr.loop.credit_driver import CreditDriver
from rlvr.types import Outcome, Response, Sample, Verdict

PATTERN = "#### (.*)"


class Characters:
    """Every token is a few characters; some answers straddle tokens."""

    pad_token_id = None

    def __init__(self, pieces):
        self.pieces = pieces

    def decode(self, ids, *, skip_special_tokens):
        return self.pieces[ids[0]]

    def __call__(self, text, *, add_special_tokens):
        return {"input_ids": [ord(c) for c in text]}


def driver(pieces, pattern=None) -> CreditDriver:
    config = RunConfig()
    config.rollout.engine = {"max_model_len": 64}
    config.verifier.answer_pattern = pattern
    return CreditDriver(config, None, Characters(pieces), None)


def span(pieces, pattern=None):
    ids = np.arange(len(pieces))
    response = Response(ids, np.zeros(len(ids)), ids, "stop")
    sample = Sample(response, "".join(pieces), Verdict(0.0, Outcome.INCORRECT))
    return driver(pieces, pattern).answer_span(sample)


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["1+1", "=2 ", "\\boxed{", "2", "}"], (3, 4)),
        (["so \\bo", "xed{1", "0", "5} ok"], (1, 4)),
        (["5 then \\boxed{5}", " and \\boxed{", "7", "1", "}", ""], (2, 4)),
        (["Answer: ", "4", "2"], (1, 3)),
        (["\\boxed{5} ", "</think>", "Answer: ", "5"], (3, 4)),
        (["\\fbox{", "5", "}", " since 5"], (1, 2)),
        (["\\boxed{", "\\boxed{", "5", "}", "}"], (1, 4)),
        (["Answer: ", "5", "\nfor 5"], (1, 2)),
        (["Answer:", "\n\n", "**", "5", "**", "\nfor 5"], (3, 4)),
        (["no", " answer", " here"], (-1, -1)),
        (["\\boxed{", "never closed"], (-1, -1)),
    ],
)
def test_span(pieces, expected):
    assert span(pieces) == expected


def test_span_of_a_configured_pattern():
    assert span(["\\boxed{7} ", "#### ", "7", "1", "\n\\boxed{2}"], PATTERN) == (2, 4)
    assert span(["\\boxed{", "7", "}"], PATTERN) == (-1, -1)
    assert span(["#### ", "7", "\nsince 7"], PATTERN) == (1, 2)


def test_what_else_it_knows():
    assert driver(["a", "b"]).tokenize("12") == [49, 50]
    assert driver(["a"]).pad_token_id == 0 and driver(["a"]).longest == 63
