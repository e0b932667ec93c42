r"""Tasks with one right way to write a solution, so that the first slip of a response is known.

``python tests/bench/slips.py TASK FOLDER [--seed N]`` writes ``FOLDER/train.jsonl``, ``eval.jsonl``
and ``model/``: a base model of 1.1 M parameters that has learned from solutions with slips.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import torch

from rlvr.quickstart import arithmetic
from rlvr.quickstart.model import build_model
from rlvr.quickstart.programs import tasks
from rlvr.quickstart.tokenizer import build_tokenizer
from rlvr.quickstart.warmup import Lesson, train_on

TRAIN, EVAL = 4096, 256


@dataclass(frozen=True)
class Problem:
    """A row of data, the one right solution, and what somebody wrote who slips now and then."""

    row: dict[str, Any]
    solution: str
    written: str


@dataclass(frozen=True)
class Task:
    """``problems(rng)`` are endless, or all there are; steps of the base model's training."""

    problems: Callable[[Random], Iterator[Problem]]
    longest: int  # tokens of a response
    steps: int
    characters: str | None = None  # None: those of arithmetic


def worked(rng: Random) -> Iterator[Problem]:
    """The quickstart's additions, in writing."""
    for addition in arithmetic.additions(rng, seen=set()):
        careful = rng.random() < arithmetic.CAREFUL_SHARE
        writer = arithmetic.CAREFUL if careful else arithmetic.SLOPPY
        yield Problem(
            {"problem": addition.problem, "answer": addition.answer},
            arithmetic.work_out(addition, arithmetic.Writer(), rng),
            arithmetic.work_out(addition, writer, rng),
        )


_SIGNS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}
# Each takes the ten digits to ten others, modulo 10, so that no later step mends a slip.
_OPERATIONS = [(s, by) for s in _SIGNS for by in ((3, 7, 9) if s == "*" else range(2, 10))]
_FACTS = [(value, *operation) for value in range(10) for operation in _OPERATIONS]
_CHAIN = 22  # operations, in 113 tokens
# How far off the answers to these are taken to be: 20 facts of 190, of which 2.3 are in a chain.
_MISTAKEN = {fact: 1 + sum(map(ord, str(fact))) % 9 for fact in Random(0).sample(_FACTS, 20)}
_RIGHT = 0.2  # how often these are right all the same


def chain(rng: Random) -> Iterator[Problem]:
    r"""``7;+4=?;*3=?;`` is to be filled in, from left to right, modulo 10: ``+4=1;*3=3;\boxed{3}``.

    Whoever wrote these knows most facts and is mistaken about the others, mostly in the same way:
    each of them is to be found out, from the outcome alone, and one slip spoils all that follows.
    """
    while True:
        first = rng.randrange(10)
        operations = rng.choices(_OPERATIONS, k=_CHAIN)

        def filled(slips: bool, first: int = first, operations: Any = operations) -> str:
            value, text = first, ""
            for sign, by in operations:
                off = _MISTAKEN.get((value, sign, by), 0)
                value = _SIGNS[sign](value, by) % 10
                if slips and off and rng.random() > _RIGHT:
                    value = (value + off) % 10
                text += f"{sign}{by}={value};"
            return f"{text}\\boxed{{{value}}}"

        right = filled(slips=False)
        sheet = "".join(f"{sign}{by}=?;" for sign, by in operations)
        row = {"problem": f"{first};{sheet}", "answer": right[-2]}
        yield Problem(row, right, filled(slips=True))


def programs(rng: Random) -> Iterator[Problem]:
    """Functions of one line; a slip takes another number, or another function of the argument."""
    every = tasks()
    while True:
        rng.shuffle(every)
        for i, task in enumerate(every):
            body = task.solution
            if rng.random() < 0.35:
                others = [other for other in every if other.argument == task.argument]
                body = rng.choice(others).solution
            elif rng.random() < 0.35:
                digits = [k for k, c in enumerate(body) if c.isdigit()]
                k = rng.choice(digits)
                body = f"{body[:k]}{rng.randrange(2, 10)}{body[k + 1 :]}"
            row = task.row(str(i), rng)
            yield Problem(row, task.solution, body)


_LETTERS = 'abcdefghijklmnopqrstuvwxyzR0123456789+-*/=;:,.?<>()[]{}%"_ \n'
TASKS = {
    "worked": Task(worked, longest=40, steps=220),
    "chain": Task(chain, longest=120, steps=350),
    "programs": Task(programs, longest=48, steps=500, characters=_LETTERS),
}


def first_slip(solution: str, response: str) -> int | None:
    """The place of the first character that the solution does not have there; None: there is none.

    Where a response ends too early, that of its end.
    """
    for place, (right, written) in enumerate(zip(solution, response, strict=False)):
        if right != written:
            return place
    return None if solution == response else min(len(solution), len(response))


def lesson(problem: Problem, eos: str) -> Lesson:
    """What was written to a problem; that alone is to be learned."""
    return [(f"{problem.row['problem']}\n", False), (f"{problem.written}{eos}", True)]


def write(name: str, folder: Path, seed: int) -> None:
    """The rows and the base model; every row has its ``solution``, which training does not read."""
    task, rng = TASKS[name], Random(seed)
    torch.manual_seed(seed)
    problems = task.problems(rng)
    folder.mkdir(parents=True, exist_ok=True)
    for file, count in (("eval", EVAL), ("train", TRAIN)):
        rows = [
            {**p.row, "id": f"{file}-{i}", "source": name, "solution": p.solution}
            for i, p in enumerate(islice(problems, count))
        ]
        (folder / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = build_tokenizer(task.characters) if task.characters else build_tokenizer()
    longest = max(len(tokenizer(f"{r['problem']}\n")["input_ids"]) for r in rows) + task.longest
    began = time.perf_counter()
    model = build_model(tokenizer, longest + 16)
    lessons = (lesson(problem, str(tokenizer.eos_token)) for problem in problems)
    train_on(model, tokenizer, lessons, task.steps)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    print(f"{folder}: {task.steps} steps in {time.perf_counter() - began:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write(options.task, options.folder, options.seed)


if __name__ == "__main__":
    main()
