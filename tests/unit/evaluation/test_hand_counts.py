"""Figures of an evaluation on real questions, with responses judged and counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rlvr.config import DataConfig, VerifierConfig
from rlvr.data.rows import Row, read_rows
from rlvr.evaluation.answers import Answers
from rlvr.evaluation.estimators import figures
from rlvr.evaluation.folder import EvaluationFolder
from rlvr.types import Group, Prompt, Response, Sample
from rlvr.verify.base import load

FILE = Path(__file__).parents[2] / "data" / "benchmarks.jsonl"
ANSWERED = {  # four responses to each question
    "aime24-1": [r"\boxed{25}", "xy is 25.", r"\boxed{025}", r"\boxed{52}"],
    "aime24-6": [r"\boxed{450}", r"\boxed{450}", r"\boxed{504}", r"So \boxed{540}."],
    "math500-54": [r"\boxed{.15}", r"\boxed{3/20}", r"\boxed{0.15}", r"\boxed{\frac{3}{20}}"],
    "minerva-102": [r"\boxed{\frac{1}{a+s}}", r"\boxed{\frac1{s-a}}", r"\boxed{s+a}", "?"],
    "olympiad_bench-203": [r"\boxed{-6,-8}", r"\boxed{-10, -8, -6}", r"\boxed{-8}", r"\boxed{-8}"],
}
# By hand, of the four: those that are right; and the mean over all pairs of the most voted (of a
# tie half) and of whether one is right.
RIGHT = {"aime24-1": 2, "aime24-6": 1, "math500-54": 4, "minerva-102": 1, "olympiad_bench-203": 1}
PASS_AT_2 = [5 / 6, 3 / 6, 6 / 6, 3 / 6, 3 / 6]
# aime24-1: 25, none, 25, 52: the right one has two votes of three. aime24-6: 450 twice. minerva:
# three answers, one vote each. olympiad: -8 twice.
MAJ_AT_4 = [1, 0, 1, 1 / 3, 0]


@pytest.fixture(scope="module")
def groups() -> list[Group]:
    verifier = load("math", VerifierConfig())
    rows = {json.loads(line)["id"]: i for i, line in enumerate(FILE.read_text().splitlines())}
    read = [row for _, row in read_rows(FILE, DataConfig())]
    found = []
    for name, texts in ANSWERED.items():
        row = read[rows[name]]
        assert isinstance(row, Row)
        prompt = Prompt(row.id, [1], row.messages[0]["content"], row.answer, "math", row.source)
        empty = Response(
            np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(0, np.int32), "stop"
        )
        found.append(
            Group(prompt, [Sample(empty, text, verifier.verify(prompt, text)) for text in texts])
        )
    return found


def test_the_figures_are_those_counted_by_hand(groups):
    answers = Answers.of(groups)
    assert dict(zip(answers.questions, answers.correct.sum(axis=1), strict=True)) == RIGHT
    found = figures(answers)
    assert found["accuracy"] == pytest.approx([n / 4 for n in RIGHT.values()])
    assert found["pass_at_2"] == pytest.approx(PASS_AT_2)
    assert found["pass_at_4"] == pytest.approx([1] * 5)
    assert found["maj_at_4"] == pytest.approx(MAJ_AT_4)


def test_the_table_has_them_by_source_and_overall(groups, tmp_path):
    folder = EvaluationFolder(tmp_path)
    folder.begin({"model": "by hand"})
    folder.add("avg_at_4", groups[:2], 0)  # in parts, as an interrupted one has them
    folder.add("avg_at_4", groups[2:], 0)
    table = folder.finish("by hand")
    result = json.loads((tmp_path / "result.json").read_text())["avg_at_4"]
    assert result["all"]["accuracy"]["value"] == pytest.approx(9 / 20)
    assert result["aime24"]["accuracy"]["value"] == pytest.approx(3 / 8)
    assert result["all"]["maj_at_4"]["value"] == pytest.approx(7 / 15)
    rows = {line.split("|")[1].strip(): line for line in table.splitlines() if line.startswith("|")}
    assert "45.0 [" in rows["all"] and "37.5 [" in rows["aime24"] and "100.0 [" in rows["math500"]
