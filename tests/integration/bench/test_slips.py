"""The bench of credit knows the first slip of every response."""

from __future__ import annotations

import importlib
import json
import sys
from itertools import islice
from pathlib import Path
from random import Random
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from rlvr.quickstart.tokenizer import build_tokenizer
from rlvr.verify.math import verify_math

sys.path.append(str(Path(__file__).parents[2] / "bench"))  # its own
slips = importlib.import_module("slips")
quality = importlib.import_module("credit_quality")


@pytest.mark.parametrize("name", slips.TASKS)
def test_a_solution_is_right_and_its_slips_are_found(name, seed):
    task, rng = slips.TASKS[name], Random(seed)
    tokenizer = build_tokenizer(task.characters) if task.characters else build_tokenizer()
    written = 0
    for problem in islice(task.problems(rng), 200):
        row, solution = problem.row, problem.solution
        ids = tokenizer(f"{row['problem']}\n{solution}")["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert len(tokenizer(solution)["input_ids"]) < task.longest
        if "tests" not in row:
            assert verify_math(row["answer"], solution).reward == 1
        assert slips.first_slip(solution, solution) is None
        place = rng.randrange(len(solution))
        wrong = next(c for c in "0123456789" if c != solution[place])
        spoilt = f"{solution[:place]}{wrong}{solution[place + 1 :]}"
        assert slips.first_slip(solution, spoilt) == place
        assert slips.first_slip(solution, solution[:place]) == place
        written += problem.written != solution
    assert 40 < written < 200


def test_the_slip_of_a_response_is_found_among_its_tokens(tmp_path):
    tokenizer = build_tokenizer()
    solution = r"3+4=7;\boxed{7}"
    responses = {
        r"3+4=8;\boxed{8}": 4,  # a digit
        r"3+4=7;\boxed{8}": 7,  # \boxed{ is one token
        "3+4=7": 5,  # it ends, where it should go on
    }
    ids = [
        [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        for text in [*responses, solution, "3+4=7;"]
    ]
    ids[-1].pop()  # cut off, before anything went wrong
    table = {
        "prompt_id": ["a"] * 5,
        "response": [*responses, solution, "3+4=7;"],
        "response_token_ids": ids,
        "advantage": [-1.0, -1.0, -1.0, 1.0, -1.0],
    }
    parquet.write_table(pa.table(table), tmp_path / "responses.parquet")
    found = list(quality.slip_tokens(tmp_path, {"a": solution}, tokenizer))
    assert [(row["response"], slip) for row, slip in found] == list(responses.items())


def test_the_table_says_who_is_right(tmp_path):
    task, tokenizer = tmp_path / "worked", build_tokenizer()
    tokenizer.save_pretrained(task / "model")
    solution, wrong = r"3+4=7;\boxed{7}", r"3+4=8;\boxed{8}"
    (task / "train.jsonl").write_text(json.dumps({"id": "a", "solution": solution}) + "\n")
    ids = tokenizer(wrong)["input_ids"]
    at = (np.arange(len(ids)) == 4).astype(np.float32)
    made = SimpleNamespace(right=1 + at, wrong=1 - at, uniform=0 * at)
    told = {"all": {"correlation": {"value": 0.25}, "gradient_share": {"value": 0.7}}}
    told |= {"positive": {"auc": {"value": None}}, "negative": {"auc": {"value": 0.75}}}
    for seed in range(2):
        folder = task / f"seed_{seed}"
        folder.mkdir(parents=True)
        table = {"prompt_id": ["a"], "response": [wrong], "advantage": [-1.0]}
        table |= {"response_token_ids": [ids]}
        table |= {f"coefficient:{name}": [c] for name, c in vars(made).items()}
        parquet.write_table(pa.table(table), folder / "responses.parquet")
        result = {"methods": {name: told for name in vars(made)}, "seconds": {"right": 1 + seed}}
        (folder / "result.json").write_text(json.dumps(result))
    measured = quality.Measured.read(task)
    lines = [line for line in measured.table() if line.startswith("| `")]
    assert [line.split("|")[1].strip() for line in lines] == ["`right`", "`uniform`", "`wrong`"]
    assert (
        "| 1.00 [1.00, 1.00] | 1.00 [1.00, 1.00] | 0.25 (0.25–0.25) | – | 0.75 (0.75–0.75) "
        "| 0.70 (0.70–0.70) | 1.50 (1.00–2.00) |" in lines[0]
    )
    assert "| 0.50 [0.50, 0.50] |" in lines[1] and "| 0.00 [0.00, 0.00] |" in lines[2]
    quality.draw([measured], tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000
