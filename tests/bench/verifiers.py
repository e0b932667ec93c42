"""How fast the verifiers are: python tests/bench/verifiers.py [--quick]

Prints a table: verdicts per second through the real pool, what the pool adds to a verifier's own
time, and the floors below which no sandbox comes. The numbers are those of this machine and of
whatever else it does meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import ray

from rlvr.config import CodeConfig, VerifierConfig
from rlvr.task import Outcome, Prompt, Verdict
from rlvr.verify.code import Code
from rlvr.verify.math import Math
from rlvr.verify.sandbox import server
from rlvr.verify.sandbox.sandbox import Sandbox
from rlvr.verify.workers.pool import VerifierPool
from rlvr.verify.workers.work import Work

Item = tuple[Prompt, str]
TIMED = "bench.verifiers"  # this file as a verifier
TESTS = str(Path(__file__).parents[1])
PROCESSES = 2
WALL_S = 2.0  # the sleeper's own limit
CONFIG = VerifierConfig(
    processes=PROCESSES, timeout_s=WALL_S + 1, code=CodeConfig(wall_s=WALL_S, cpu_s=1)
)


class Timed:
    """``math`` or ``code``, as the row's source says; the detail is worker, start and end."""

    def __init__(self, config: VerifierConfig) -> None:
        self._verifiers = {"math": Math(config), "code": Code(config)}

    def verify(self, prompt: Prompt, response_text: str) -> Verdict:
        start = time.monotonic()
        verdict = self._verifiers[prompt.source].verify(prompt, response_text)
        return replace(verdict, detail=f"{os.getpid()} {start} {time.monotonic()}")


VERIFIER = Timed


@dataclass(frozen=True)
class Row:
    """One line of the report."""

    name: str
    measured: str
    goal: str = ""


def math_items(count: int) -> list[Item]:
    """Answers like those of MATH-500: mostly numbers and fractions, some formulas, some wrong."""
    dice = random.Random(0)
    kinds: Sequence[Callable[[int, int], tuple[str, str]]] = (
        lambda a, b: (str(a), str(a)),
        lambda a, b: (str(a), str(b)),
        lambda a, b: (rf"\frac{{{a}}}{{{b}}}", rf"\dfrac{{{2 * a}}}{{{2 * b}}}"),
        lambda a, b: (str(a / 4), rf"\frac{{{a}}}{{4}}"),
        lambda a, b: (f"({a}, {b})", f"({a},{b})"),
        lambda a, b: (rf"{a}\sqrt{{{b}}}", rf"\sqrt{{{a * a * b}}}"),
        lambda a, b: (f"x^2 + {a}x + {a * b}", f"x^2 + {a * b} + {a}x"),
        lambda a, b: (rf"[{a}, \infty)", rf"[{a},\infty)"),
        lambda a, b: (rf"{a}\pi", rf"{a} \pi"),
        lambda a, b: (rf"\text{{{'east' if a % 2 else 'west'}}}", "East"),
    )
    weights = (25, 15, 12, 8, 10, 10, 8, 4, 4, 4)
    items = []
    for _ in range(count):
        gold, given = dice.choices(kinds, weights)[0](dice.randint(2, 200), dice.randint(2, 200))
        prompt = Prompt("p", (), "", gold, TIMED, source="math")
        items.append((prompt, f"So it is $\\boxed{{{given}}}$."))
    return items


def code_item(style: str, program: str = "") -> Item:
    """A trivial program with trivial tests, in one of three styles."""
    meta: dict[str, object] = {"tests": {"inputs": ["1", "2"], "outputs": ["2", "4"]}}
    if style == "calls":
        meta = {"tests": {"inputs": [[1], [2]], "outputs": [2, 4], "fn_name": "f"}}
    elif style == "asserts":
        meta = {"tests": "def check(c):\n    assert c(1) == 2\n", "entry_point": "f"}
    program = program or "def f(x): return 2 * x\nif __name__ == '__main__': print(f(int(input())))"
    return Prompt("p", (), "", "-", TIMED, source="code", meta=meta), f"```python\n{program}\n```"


@asynccontextmanager
async def running() -> AsyncIterator[VerifierPool]:
    """The pool, with every process warm."""
    if TESTS not in sys.path:
        sys.path.append(TESTS)
    options = {"runtime_env": {"env_vars": {"PYTHONPATH": TESTS}}}
    pool = VerifierPool(Work(CONFIG, [TIMED]), options)
    await pool.start()
    try:
        await pool.verify([*math_items(50), *[code_item("calls")] * 20])
        yield pool
    finally:
        await pool.close()


async def timed(pool: VerifierPool, items: Sequence[Item]) -> tuple[list[Verdict], list[float]]:
    """The verdicts, all asked for at once, and when each came, in seconds after that."""
    start = time.monotonic()

    async def one(item: Item) -> tuple[Verdict, float]:
        [verdict] = await pool.verify([item])
        return verdict, time.monotonic() - start

    given = await asyncio.gather(*map(one, items))
    return [verdict for verdict, _ in given], [moment for _, moment in given]


def added_ms(verdicts: Sequence[Verdict], arrived: Sequence[float]) -> list[float]:
    """What the pool added to each verdict, sorted: its worker's pause before it, and its way back.

    ``arrived`` is on ``time.monotonic``, as the times in the verdicts' details are.
    """
    ends: dict[str, float] = {}
    added = []
    spans = [(v.detail.split(), moment) for v, moment in zip(verdicts, arrived, strict=True)]
    for (worker, start, end), moment in sorted(spans, key=lambda span: float(span[0][1])):
        pause = float(start) - ends.get(worker, float(start))
        added.append(1000 * (pause + moment - float(end)))
        ends[worker] = float(end)
    return sorted(added)


async def math_rows(pool: VerifierPool, count: int, queued: int) -> AsyncIterator[Row]:
    """Rate, and the pool's share of the time."""
    start = time.monotonic()
    await pool.verify(math_items(count))
    rate = count / (time.monotonic() - start)
    yield Row(f"math, {PROCESSES} processes", f"{rate:.0f}/s", ">= 300/s")
    start = time.monotonic()
    verdicts, moments = await timed(pool, math_items(queued))
    added = added_ms(verdicts, [start + moment for moment in moments])
    own = sorted(1000 * v.seconds for v in verdicts)
    p99 = int(0.99 * queued)
    yield Row(f"  the verifier's own time at {queued:,} queued, p99", f"{own[p99]:.1f} ms")
    yield Row("  what the pool adds to it, median", f"{added[queued // 2]:.1f} ms")
    yield Row("  what the pool adds to it, p99", f"{added[p99]:.1f} ms", "< 50 ms")


async def code_rows(pool: VerifierPool, count: int) -> AsyncIterator[Row]:
    """Rates by style of test."""
    for style in ("scripts", "calls", "asserts"):
        start = time.monotonic()
        verdicts = await pool.verify([code_item(style)] * count)
        rate = count / (time.monotonic() - start)
        assert {v.outcome for v in verdicts} == {Outcome.CORRECT}
        yield Row(f"code, {style}, {PROCESSES} processes", f"{rate:.0f}/s", ">= 40/s")


def floor_rows(times: int) -> list[Row]:
    """How long the parts of a sandbox take, one after the other."""
    interpreter = server.python("/app")[0]
    ours = server.bubblewrap()
    rows = []
    for name, command in (
        ("bwrap --unshare-all true", ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "true"]),
        ("python -I -S -c pass", [interpreter, "-I", "-S", "-c", "pass"]),
        ("our bwrap python -I -S -c pass", [*ours, interpreter, "-I", "-S", "-c", "pass"]),
    ):
        start = time.monotonic()
        for _ in range(times):
            subprocess.run(command, check=True)
        rows.append(Row(f"  floor: {name}", f"{1000 * (time.monotonic() - start) / times:.1f} ms"))
    for attempt in range(times + 1):
        if attempt == 1:  # the first starts the fork server
            start = time.monotonic()
        with Sandbox("host", CONFIG.code) as box:
            box.receive()
    each_ms = 1000 * (time.monotonic() - start) / times
    rows.append(Row("  a sandbox, forked and ended", f"{each_ms:.1f} ms"))
    server.end("bubblewrap")
    return rows


async def sleeper_rows(pool: VerifierPool, others: int) -> AsyncIterator[Row]:
    """One response that sleeps for ever among others, against the same queue without it."""
    place = others // 2
    items = math_items(others)
    _, before = await timed(pool, [*items[:place], code_item("scripts"), *items[place:]])
    sleeper = code_item("scripts", "import time\ntime.sleep(10**9)")
    verdicts, moments = await timed(pool, [*items[:place], sleeper, *items[place:]])
    assert verdicts[place].outcome is Outcome.TIMEOUT, verdicts[place]
    delays = [b - a for i, (a, b) in enumerate(zip(before, moments, strict=True)) if i != place]
    name = f"one of {others + 1:,} sleeps for ever: it delays another by at most"
    yield Row(name, f"{max(0.0, *delays):.2f} s", f"< {WALL_S:g} s")
    yield Row("  the others without it, last", f"{max(before):.2f} s")
    del moments[place]
    yield Row("  the others with it, last", f"{max(moments):.2f} s")


async def report(scale: int) -> list[Row]:
    """All rows; ``scale`` divides the amount of work. Needs a Ray cluster."""
    async with running() as pool:
        rows = [row async for row in math_rows(pool, 3000 // scale, 1000 // scale)]
        rows += [row async for row in code_rows(pool, 400 // scale)]
        rows += [row async for row in sleeper_rows(pool, 1000 // scale - 1)]
    return rows + floor_rows(40 // scale)


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = ["| | measured | goal |", "| --- | ---: | ---: |"]
    return "\n".join([*lines, *(f"| {r.name.strip()} | {r.measured} | {r.goal} |" for r in rows)])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the work")
    scale = 20 if parser.parse_args().quick else 1
    ray.init("local", num_cpus=PROCESSES, include_dashboard=False, logging_level="ERROR")
    try:
        print(table(asyncio.run(report(scale))))
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
