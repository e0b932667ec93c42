"""Problems are new, solutions are right, and slips are the slips they claim to be."""

from __future__ import annotations

import random
import re
from itertools import islice

import pytest

from rlvr.config import VerifierConfig
from rlvr.quickstart.arithmetic import (
    SLOPPY,
    Addition,
    Writer,
    additions,
    corpus,
    row,
    work_out,
)
from rlvr.task import Prompt
from rlvr.verify import exact

COLUMN = r"(\d)\+(\d)=(\d+)(?:\+1=(\d+))?"


@pytest.fixture
def rng(seed):
    return random.Random(seed)  # fresh problems in every run


def columns_without_carry(a: int, b: int) -> str:
    digits = [x + y for x, y in zip(map(int, str(a)), map(int, str(b)), strict=True)]
    return str(digits[0]) + "".join(str(d % 10) for d in digits[1:])


def test_a_faultless_solution_is_true_column_by_column(rng):
    for addition in islice(additions(rng, set()), 500):
        solution = work_out(addition, Writer(), rng)
        *steps, box = solution.split(";")
        assert box == f"\\boxed{{{addition.a + addition.b}}}"
        assert addition.solved_by(solution)
        carry = False
        for place, step in enumerate(steps):
            x, y, total, carried = re.fullmatch(COLUMN, step).groups()
            assert int(x) == addition.a // 10**place % 10
            assert int(y) == addition.b // 10**place % 10
            assert int(total) == int(x) + int(y)
            assert (carried is not None) == carry
            assert carried is None or int(carried) == int(total) + 1
            carry = int(carried or total) >= 10
        assert len(steps) == 3


def test_worked_examples(rng):
    assert (
        work_out(Addition(478, 365), Writer(), rng) == "8+5=13;7+6=13+1=14;4+3=7+1=8;\\boxed{843}"
    )
    assert work_out(Addition(100, 900), Writer(), rng) == "0+0=0;0+0=0;1+9=10;\\boxed{1000}"


def test_whoever_forgets_every_carry_is_right_only_without_one(rng):
    forgetful = Writer(forgets_carry=1.0)
    outcomes = set()
    for addition in islice(additions(rng, set()), 500):
        solution = work_out(addition, forgetful, rng)
        answer = columns_without_carry(addition.a, addition.b)
        assert solution.endswith(f"\\boxed{{{answer}}}")
        assert addition.solved_by(solution) == (answer == addition.answer)
        outcomes.add(addition.solved_by(solution))
    assert outcomes == {True, False}


@pytest.mark.parametrize("writer", [Writer(misadds=1.0), Writer(miscopies=1.0)])
def test_slips_spoil_answers(writer, rng):
    problems = list(islice(additions(rng, set()), 300))
    solved = sum(p.solved_by(work_out(p, writer, rng)) for p in problems)
    assert solved < 0.5 * len(problems)


def test_the_last_box_counts():
    addition = Addition(200, 300)
    assert addition.solved_by("\\boxed{1};\\boxed{500}")
    assert not addition.solved_by("\\boxed{500};\\boxed{1}")
    assert not addition.solved_by("500")
    assert not addition.solved_by("\\boxed{500")


def test_the_verifiers_agree(rng):
    for addition in islice(additions(rng, set()), 200):
        solution = work_out(addition, SLOPPY, rng)
        prompt = Prompt("p", [1], addition.problem, addition.answer, "exact")
        verdict = exact.Exact(VerifierConfig()).verify(prompt, solution)
        assert addition.solved_by(solution) == (verdict.reward == 1.0)


def test_no_problem_comes_twice_in_either_order(rng):
    seen = set()
    problems = list(islice(additions(rng, seen), 5000))
    assert len({tuple(sorted((p.a, p.b))) for p in problems}) == 5000
    assert len(seen) == 5000
    assert Addition(123, 456).operands == Addition(456, 123).operands


def test_the_corpus_holds_right_and_wrong_solutions(rng):
    pairs = list(islice(corpus(additions(rng, set()), rng), 1000))
    solved = [Addition(*map(int, p.split("+"))).solved_by(s) for p, s in pairs]
    assert 0.2 < sum(solved) / len(solved) < 0.5


def test_a_row_has_what_a_data_set_needs():
    assert row(Addition(478, 365), "train-0") == {
        "id": "train-0",
        "problem": "478+365",
        "answer": "843",
        "source": "quickstart/addition",
    }
