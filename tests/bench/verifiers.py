"""How fast the verifiers are: python tests/bench/verifiers.py [--quick]

Prints a table: verdicts per second, how long a verdict takes beyond the verifier's own time, and
what the floor is. The numbers are those of this machine and of whatever else it does meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import pickle
import random
import subprocess
import time
from collections.abc import Callable, Sequence

from rlvr.config import CodeConfig, VerifierConfig
from rlvr.task import Prompt, Verdict
from rlvr.verify.process import Fleet
from rlvr.verify.sandbox import _bubblewrap, _interpreter
from rlvr.verify.worker import decode

Item = tuple[Prompt, str]
PROCESSES = 2


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
        items.append((Prompt("p", (), "", gold, "math"), f"So it is $\\boxed{{{given}}}$."))
    return items


def code_items(count: int, style: str) -> list[Item]:
    """Trivial programs with trivial tests."""
    meta: dict[str, object] = {"tests": {"inputs": ["1", "2"], "outputs": ["2", "4"]}}
    if style == "calls":
        meta = {"tests": {"inputs": [[1], [2]], "outputs": [2, 4], "fn_name": "f"}}
    elif style == "asserts":
        meta = {"tests": "def check(c):\n    assert c(1) == 2\n", "entry_point": "f"}
    program = "def f(x): return 2 * x\nif __name__ == '__main__': print(f(int(input())))"
    prompt = Prompt("p", (), "", "-", "code", meta=meta)
    return [(prompt, f"```python\n{program}\n```")] * count


async def measure(
    items: Sequence[Item], processes: int = PROCESSES, timeout_s: float = 10.0
) -> tuple[float, list[Verdict], list[float]]:
    """Seconds for all; the verdicts; when each came, in seconds after all were queued."""
    came: dict[int, tuple[float, bytes]] = {}
    done = asyncio.Event()

    def deliver(number: int, verdict: bytes) -> None:
        came[number] = (time.perf_counter(), verdict)
        if len(came) == len(items):
            done.set()

    config = VerifierConfig(
        processes=processes, timeout_s=timeout_s, code=CodeConfig(wall_s=timeout_s - 1, cpu_s=1)
    )
    fleet = Fleet(config, [items[0][0].verifier], deliver)
    await fleet.start()
    try:
        start = time.perf_counter()
        for number, item in enumerate(items):
            fleet.submit(number, pickle.dumps(item))
        fleet.feed()
        await done.wait()
    finally:
        await fleet.close()
    moments = [came[i][0] - start for i in range(len(items))]
    return max(moments), [decode(came[i][1]) for i in range(len(items))], moments


def overhead_ms(verdicts: Sequence[Verdict], moments: Sequence[float]) -> list[float]:
    """Milliseconds of each verdict beyond its verifier's time and beyond those in front of it.

    With one process the ideal moment of a verdict is the sum of all verifiers' times up to it; what
    it is later than the one before, beyond its own time, is the pool's.
    """
    order = sorted(range(len(moments)), key=moments.__getitem__)
    late, before = [], 0.0
    for i in order:
        late.append(1000 * max(0.0, moments[i] - before - verdicts[i].seconds))
        before = moments[i]
    return sorted(late)


def floor_ms(command: list[str], times: int) -> float:
    """Milliseconds to start a command and see its end."""
    start = time.perf_counter()
    for _ in range(times):
        subprocess.run(command, check=True, env={})
    return 1000 * (time.perf_counter() - start) / times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work")
    scale = 10 if parser.parse_args().quick else 1
    rows: list[tuple[str, str, str]] = []

    seconds, _, _ = asyncio.run(measure(math_items(5000 // scale)))
    rows.append((f"math, {PROCESSES} processes", f"{5000 // scale / seconds:.0f}/s", ">= 300/s"))
    _, verdicts, moments = asyncio.run(measure(math_items(1000), processes=1))
    late = overhead_ms(verdicts, moments)
    rows.append(("math, 1,000 queued: p99 above own time", f"{late[990]:.1f} ms", "< 50 ms"))
    own = sorted(v.seconds for v in verdicts)
    rows.append(("  the verifier's own time, mean", f"{1000 * sum(own) / 1000:.2f} ms", ""))
    rows.append(("  the verifier's own time, p99", f"{1000 * own[990]:.1f} ms", ""))

    for style in ("scripts", "calls", "asserts"):
        count = 200 // scale
        seconds, verdicts, _ = asyncio.run(measure(code_items(count, style)))
        assert all(v.reward == 1 for v in verdicts), verdicts[0]
        rows.append(
            (f"code, {style}, {PROCESSES} processes", f"{count / seconds:.0f}/s", ">= 40/s")
        )
    bubblewrap = _bubblewrap(CodeConfig())
    python = [_interpreter(), "-S", "-s", "-B", "-c", "pass"]
    times = 50 // min(scale, 5)
    path = os.environ["PATH"]
    rows.append(("  start of python alone", f"{floor_ms(python, times):.1f} ms", ""))
    whole = ["/usr/bin/env", f"PATH={path}", *bubblewrap, *python]
    rows.append(("  start of python in bubblewrap", f"{floor_ms(whole, times):.1f} ms", ""))

    items = math_items(999)
    sleeper = Prompt("p", (), "", json.dumps({"inputs": [""], "outputs": [""]}), "code")
    items.insert(500, (sleeper, "import time\ntime.sleep(10**9)"))
    seconds, verdicts, moments = asyncio.run(measure(items, timeout_s=3.0))
    others = max(m for i, m in enumerate(moments) if i != 500)
    rows.append(("one sleeper (2 s) among 1,000: the last of the others", f"{others:.2f} s", ""))
    rows.append(("  the sleeper", f"{moments[500]:.2f} s, {verdicts[500].outcome}", "3 s"))

    print(f"{'':<56}{'measured':>18}  goal")
    for name, measured, goal in rows:
        print(f"{name:<56}{measured:>18}  {goal}")


if __name__ == "__main__":
    main()
