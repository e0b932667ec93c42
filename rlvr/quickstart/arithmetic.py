r"""The task: add two three-digit numbers in writing, column by column.

A solution of ``478+365`` reads ``8+5=13;7+6=13+1=14;4+3=7+1=8;\boxed{843}``.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

_LOWEST, _HIGHEST = 100, 999
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Addition:
    """One problem. Sums of the same two numbers, in either order, count as the same problem."""

    a: int
    b: int

    @property
    def problem(self) -> str:
        return f"{self.a}+{self.b}"

    @property
    def answer(self) -> str:
        return str(self.a + self.b)

    @property
    def operands(self) -> frozenset[int]:
        return frozenset((self.a, self.b))

    def solved_by(self, response: str) -> bool:
        boxed = _BOXED.findall(response)
        return bool(boxed) and boxed[-1] == self.answer


@dataclass(frozen=True, slots=True)
class Writer:
    """Somebody who writes solutions down, with the probability of each slip; faultless if 0."""

    forgets_carry: float = 0.0  # of each carry
    misadds: float = 0.0  # of each column, by one
    miscopies: float = 0.0  # one digit of the final answer


CAREFUL = Writer(misadds=0.08, miscopies=0.03)
SLOPPY = Writer(forgets_carry=0.95, misadds=0.08, miscopies=0.03)
CAREFUL_SHARE = 0.2  # of the solutions that the base model learns from


def work_out(addition: Addition, writer: Writer, rng: Random) -> str:
    steps, digits, carry = [], "", 0
    for x, y in zip(reversed(str(addition.a)), reversed(str(addition.b)), strict=True):
        total = int(x) + int(y)
        if rng.random() < writer.misadds:
            total = abs(total + rng.choice((-1, 1)))
        step = f"{x}+{y}={total}"
        if carry and rng.random() >= writer.forgets_carry:
            total += carry
            step += f"+{carry}={total}"
        steps.append(step)
        digits = str(total % 10) + digits
        carry = total // 10
    answer = f"{carry or ''}{digits}"
    if rng.random() < writer.miscopies:
        place = rng.randrange(len(answer))
        answer = answer[:place] + str(rng.randrange(10)) + answer[place + 1 :]
    return ";".join(steps) + f";\\boxed{{{answer}}}"


def additions(rng: Random, seen: set[frozenset[int]]) -> Iterator[Addition]:
    """Endless new problems, none of them in ``seen``, to which each is added."""
    while True:
        addition = Addition(rng.randint(_LOWEST, _HIGHEST), rng.randint(_LOWEST, _HIGHEST))
        if addition.operands not in seen:
            seen.add(addition.operands)
            yield addition


def corpus(problems: Iterator[Addition], rng: Random) -> Iterator[tuple[str, str]]:
    """What the base model learns from: problems with the solutions of mostly sloppy writers."""
    for addition in problems:
        writer = CAREFUL if rng.random() < CAREFUL_SHARE else SLOPPY
        yield addition.problem, work_out(addition, writer, rng)


def row(addition: Addition, name: str) -> dict[str, str]:
    return {
        "id": name,
        "problem": addition.problem,
        "answer": addition.answer,
        "source": "quickstart/addition",
    }
