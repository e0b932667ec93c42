"""``python -m rlvr.quickstart.programs --output DIR [--seed N]``: small functions to write.

Writes ``DIR/train.jsonl`` and ``DIR/eval.jsonl``; ``data=humaneval_like`` trains on them. A row is
laid out like one of HumanEval: its problem is the head of a function with its docstring, and its
tests check the function. Nothing is downloaded.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

EVAL_TASKS = 32
_TESTS = 5  # calls of each function
_NUMBERS = range(2, 10)


@dataclass(frozen=True, slots=True)
class Task:
    """One function to write: what it is given, what it should return, and how that is computed."""

    argument: str
    returns: str
    expression: str

    @property
    def problem(self) -> str:
        """The function's head; the policy is to go on with its body."""
        return f'def f({self.argument}):\n    """Return {self.returns}."""\n'

    @property
    def solution(self) -> str:
        """A body that passes the tests."""
        return f"    return {self.expression}\n"

    def row(self, name: str, rng: Random) -> dict[str, str]:
        """The task as a line of a JSONL data set."""
        return {
            "id": name,
            "problem": self.problem,
            "answer": self.solution,
            "tests": self._tests(rng),
            "entry_point": "f",
            "verifier": "code",
            "source": "quickstart/programs",
        }

    def _tests(self, rng: Random) -> str:
        function = eval(f"lambda {self.argument}: {self.expression}")
        calls = [_ARGUMENTS[self.argument](rng) for _ in range(_TESTS)]
        asserts = [f"    assert candidate({call!r}) == {function(call)!r}\n" for call in calls]
        return "def check(candidate):\n" + "".join(asserts)


_ARGUMENTS: dict[str, Callable[[Random], Any]] = {
    "x": lambda rng: rng.randint(-20, 20),
    "xs": lambda rng: [rng.randint(0, 12) for _ in range(rng.randint(3, 7))],
    "s": lambda rng: "".join(rng.choices("abcdef", k=rng.randint(3, 7))),
}
_FAMILIES = (
    Task("x", "x times {a} plus {b}", "x * {a} + {b}"),
    Task("x", "{a} minus x times {b}", "{a} - x * {b}"),
    Task("x", "the larger of x and {a}", "max(x, {a})"),
    Task("x", "the remainder of x divided by {a}", "x % {a}"),
    Task("x", "whether x is greater than {a}", "x > {a}"),
    Task("xs", "the sum of xs plus {a}", "sum(xs) + {a}"),
    Task("xs", "the first {a} elements of xs", "xs[:{a}]"),
    Task("xs", "the elements of xs greater than {a}", "[x for x in xs if x > {a}]"),
    Task("s", "s repeated {a} times", "s * {a}"),
    Task("s", "the last {a} characters of s", "s[-{a}:]"),
)


def tasks() -> list[Task]:
    filled = (
        Task(family.argument, family.returns.format(a=a, b=b), family.expression.format(a=a, b=b))
        for family in _FAMILIES
        for a in _NUMBERS
        for b in _NUMBERS
    )
    return list(dict.fromkeys(filled))


def programs(output: Path, seed: int = 0) -> tuple[list[Task], list[Task]]:
    """Write the two files into ``output``; return the tasks in them. None is in both."""
    rng = Random(seed)
    shuffled = tasks()
    rng.shuffle(shuffled)
    held_out, training = shuffled[:EVAL_TASKS], shuffled[EVAL_TASKS:]
    output.mkdir(parents=True, exist_ok=True)
    for name, chosen in (("train", training), ("eval", held_out)):
        rows = [json.dumps(task.row(f"{name}-{i}", rng)) for i, task in enumerate(chosen)]
        (output / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    return training, held_out


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m rlvr.quickstart.programs", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    training, held_out = programs(arguments.output, arguments.seed)
    print(f"{arguments.output}: {len(training)} tasks to train on, {len(held_out)} held out")


if __name__ == "__main__":
    main()
