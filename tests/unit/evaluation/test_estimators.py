"""pass@k, maj@k and their intervals against counting."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from rlvr.evaluation.answers import Answers
from rlvr.evaluation.estimators import figures, majority_at, pass_at, sizes
from rlvr.evaluation.intervals import difference, estimate
from rlvr.task import Outcome


def draw(generator, questions: int, samples: int) -> Answers:
    """Random verdicts: right, one of three wrong answers, or none."""
    rows = []
    for q in range(questions):
        chance = generator.dirichlet(np.ones(5))
        picks = generator.choice(5, size=samples, p=chance)
        verdicts = [
            (Outcome.CORRECT, "42")
            if pick == 0
            else (Outcome.UNPARSEABLE, "no box")
            if pick == 4
            else (Outcome.INCORRECT, f"{pick}")
            for pick in picks
        ]
        rows.append((f"q{q}", f"source{q % 2}", "math", verdicts))
    return Answers.judged(rows)


def test_pass_at_k_counts_the_subsets_with_a_correct_sample(seed):
    answers = draw(np.random.default_rng(seed), 12, 7)
    for k in range(1, 8):
        counted = [
            np.mean([any(own[list(subset)]) for subset in combinations(range(7), k)])
            for own in answers.correct
        ]
        assert pass_at(answers, k) == pytest.approx(counted, abs=1e-12)
    assert pass_at(answers, 1) == pytest.approx(answers.correct.mean(axis=1))


def literal_majority(votes: list[int]) -> float:
    """The share of the right answer among those with the most votes."""
    said = [v for v in votes if v >= 0]
    if not said:
        return 0.0
    most = max(said.count(v) for v in said)
    winners = {v for v in said if said.count(v) == most}
    return (0 in winners) / len(winners)


def test_maj_at_n_is_the_vote_of_all(seed):
    answers = draw(np.random.default_rng(seed), 40, 6)
    expected = [literal_majority(votes.tolist()) for votes in answers.vote]
    assert majority_at(answers, 6) == pytest.approx(expected)


def test_maj_at_k_is_the_mean_over_subsets(seed):
    answers = draw(np.random.default_rng(seed), 30, 6)
    every = [
        np.mean([literal_majority(v[list(s)].tolist()) for s in combinations(range(6), 3)])
        for v in answers.vote
    ]
    assert majority_at(answers, 3).mean() == pytest.approx(np.mean(every), abs=0.04)


def test_equal_wrong_answers_outvote_the_right_one():
    wrong = (Outcome.INCORRECT, " 7 ")
    votes = [(Outcome.CORRECT, "42"), wrong, (Outcome.INCORRECT, "7"), (Outcome.TIMEOUT, "")]
    assert majority_at(Answers.judged([("q", "", "exact", votes)]), 4) == pytest.approx([0.0])
    tied = Answers.judged([("q", "", "exact", votes[:2])])
    assert majority_at(tied, 2) == pytest.approx([0.5])


@pytest.mark.parametrize(
    ("samples", "expected"), [(1, []), (2, [2]), (8, [2, 4, 8]), (5, [2, 4, 5])]
)
def test_sizes(samples, expected):
    assert sizes(samples) == expected


def test_intervals_cover_the_truth_as_often_as_they_say(seed):
    """Of 300 draws of questions with a known mean, about 95 % hold it."""
    generator = np.random.default_rng(seed)
    held = 0
    for _ in range(300):
        found = estimate(generator.binomial(8, 0.37, 150) / 8)
        held += found.low <= 0.37 <= found.high
    assert 0.90 < held / 300 < 0.99


def test_a_difference_is_paired(seed):
    """A small gain on every question is seen, though the questions differ far more."""
    generator = np.random.default_rng(seed)
    hard = generator.random((200, 1))
    shared = generator.random((200, 16))
    questions = [f"q{i}" for i in range(200)]

    def answered(easier: float) -> Answers:
        correct = shared < hard + easier
        return Answers(questions, [""] * 200, correct, np.where(correct, 0, 1))

    found = difference(answered(0.0), answered(0.08))
    gain = found.figures["accuracy"]
    assert gain.differs and 0.02 < gain.low < gain.value < gain.high < 0.12
    assert found.suites_p is not None and found.suites_p < 0.01
    same = difference(answered(0.0), answered(0.0))
    assert not same.figures["accuracy"].differs and same.suites_p == pytest.approx(1.0, abs=0.01)


def test_only_common_questions_are_compared(seed):
    answers = draw(np.random.default_rng(seed), 10, 4)
    found = difference(answers.take(range(8)), answers.take([9, 3, 5]))
    assert found.questions == 2
    assert all(f.value == pytest.approx(0) for f in found.figures.values())
    with pytest.raises(ValueError, match="no question in common"):
        difference(answers.take([0]), answers.take([1]))


def test_figures_by_source(seed):
    answers = draw(np.random.default_rng(seed), 10, 4)
    parts = answers.by_source()
    assert list(parts) == ["source0", "source1"]
    whole = figures(answers)
    assert set(whole) == {"accuracy", "pass_at_2", "pass_at_3", "pass_at_4", "maj_at_2", "maj_at_4"}
    for name, values in whole.items():
        joined = np.mean([figures(part)[name].mean() for part in parts.values()])
        assert values.mean() == pytest.approx(joined)
    assert answers.take([0, 2]).by_source() == {}


def test_programs_do_not_vote():
    verdicts = [(Outcome.CORRECT, ""), (Outcome.INCORRECT, "test 3")]
    answers = Answers.judged([("q", "", "code", verdicts)])
    assert answers.correct.tolist() == [[True, False]]
    assert set(figures(answers)) == {"accuracy", "pass_at_2"}
