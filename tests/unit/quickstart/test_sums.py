"""Sums and the calculator that solves them: lessons say what a conversation says."""

from __future__ import annotations

import random
from itertools import islice

from rlvr.quickstart import sums
from rlvr.quickstart.calculator import Calculator
from rlvr.quickstart.tokenizer import EOS, build_tokenizer
from rlvr.quickstart.warmup import _batch
from rlvr.task import Prompt


def test_a_lesson_is_the_conversation_that_the_calculator_would_have(seed):
    rng = random.Random(seed)
    tool, tokenizer = Calculator(), build_tokenizer()
    for numbers in islice(sums.problems(rng), 50):
        prompt, call, said, answer = sums.lesson(numbers, rng, EOS, calls=True)
        assert [learned for _, learned in (prompt, call, said, answer)] == [
            False,
            True,
            False,
            True,
        ]
        reply = tool.step(0, call[0].removesuffix(EOS))
        # As the chat template has it: the end of the turn's line, and a line of what was said.
        assert said[0] == f"\n{reply.observation}\n"
        assert answer[0] == f"\\boxed{{{reply.observation}}}{EOS}"
        assert tool.step(0, answer[0]).observation is None
        ids, labels = _batch([(prompt, call, said, answer)], tokenizer)
        assert tokenizer.decode(ids[0][labels[0] != -100]) == call[0] + answer[0]
        asked = [(m["problem"], m["answer"]) for m in [sums.row(numbers, "x")]]
        assert asked == [(prompt[0].strip(), str(sum(numbers)))]


def test_the_base_model_is_taught_to_ask_and_then_to_guess(seed):
    rng = random.Random(seed)
    lessons = islice(sums.lessons(sums.problems(rng), rng, EOS), sums._STEPS * 32)
    calls = [len(lesson) == 4 for lesson in lessons]
    early = int(len(calls) * 0.75)
    assert all(calls[: early - 32])
    assert 0.15 < sum(calls[early + 32 :]) / len(calls[early + 32 :]) < 0.25


def test_what_is_no_call_ends_a_conversation():
    tool = Calculator()
    assert tool.start(Prompt("p", (), "", "", "exact")) == 0
    for text in ("", "12+3", "<12+>", "<a>", "\\boxed{3}", "<" + "1" * 10 + ">"):
        assert tool.step(0, text).observation is None, text
    assert tool.step(0, "<1> no, <1+2>").observation == "3"
