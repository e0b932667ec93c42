"""The generated programming tasks: all different, split, and judged as their solutions say."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest

from rlvr.config import DataConfig, VerifierConfig
from rlvr.data.rows import read_rows
from rlvr.quickstart.programs import EVAL_TASKS, programs, tasks
from rlvr.task import Outcome, Prompt
from rlvr.verify.base import load


def test_the_command_writes_two_disjoint_files(tmp_path):
    command = [sys.executable, "-m", "rlvr.quickstart.programs", "--output", str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    problems = []
    for name in ("train", "eval"):
        for number, row in read_rows(tmp_path / f"{name}.jsonl", DataConfig()):
            assert row.id == f"{name}-{number - 1}" and row.verifier == "code"
            assert set(row.meta) >= {"tests", "entry_point"}
            problems.append(row.messages[0]["content"])
    assert len(problems) == len(set(problems)) == len(tasks())
    assert f"{len(problems) - EVAL_TASKS} tasks to train on, {EVAL_TASKS} held out" in done.stdout
    again, other = tmp_path / "again", tmp_path / "other"
    programs(again, seed=0)
    programs(other, seed=1)
    first = (tmp_path / "train.jsonl").read_text()
    assert first == (again / "train.jsonl").read_text() != (other / "train.jsonl").read_text()


@pytest.mark.parametrize("argument", ["x", "xs", "s"])
def test_solutions_pass_and_others_do_not(tmp_path, argument, seed):
    dice = random.Random(seed)
    programs(tmp_path, seed=dice.randrange(1000))
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    code = load("code", VerifierConfig())
    for row in dice.sample([r for r in rows if r["problem"].startswith(f"def f({argument}):")], 3):
        meta = {"tests": row["tests"], "entry_point": row["entry_point"]}
        prompt = Prompt(row["id"], (), row["problem"], row["answer"], "code", meta=meta)
        solution = row["answer"]
        assert code.verify(prompt, solution).outcome is Outcome.CORRECT, row
        other = "    return None\n"
        assert code.verify(prompt, other).outcome is Outcome.INCORRECT, row
        assert code.verify(prompt, solution.rstrip() + " +\n").outcome is Outcome.UNPARSEABLE
