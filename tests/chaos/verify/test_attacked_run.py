"""One response in twenty is a program that attacks: the rewards of the others are the same."""

import asyncio
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from attacks import FORGED, NEVER_ENDING, WASTEFUL

from rlvr.config import CodeConfig, VerifierConfig
from rlvr.task import Outcome, Prompt, Verdict
from rlvr.verify.workers.pool import VerifierPool
from rlvr.verify.workers.work import Work

CONFIG = VerifierConfig(
    actors=2,
    processes=1,
    timeout_s=8.0,
    memory_mib=1024,
    # Wide enough for honest programs on a busy machine.
    code=CodeConfig(wall_s=6.0, cpu_s=2, memory_mib=256, output_mib=1, disk_mib=4),
)
COUNT, ATTACKERS = 100, 5
ACTOR = 6  # processes that stay: nursery, keeper, worker, and three of its fork server


def honest(dice: random.Random, number: int) -> tuple[Prompt, str]:
    """Right, wrong or broken, in each style of tests."""
    factor = dice.randrange(2, 100)
    script = {"inputs": ["1", "7"], "outputs": [str(factor), str(7 * factor)]}
    calls = {"inputs": [[1], [7]], "outputs": [factor, 7 * factor], "fn_name": "f"}
    check = f"def check(c):\n    assert c(1) == {factor}\n    assert c('a') == {'a' * factor!r}\n"
    tests = dice.choice([{"tests": script}, {"tests": calls}, {"tests": check, "entry_point": "f"}])
    slip = dice.choices(["", " + 1", " +", " / 0"], [6, 2, 1, 1])[0]
    program = f"def f(x):\n    return x * {factor}{slip}\n"
    program += "if __name__ == '__main__':\n    print(f(int(input())))\n"
    prompt = Prompt(f"p{number}", (1,), "", "-", "code", meta=tests)
    return prompt, f"This will do:\n```python\n{program}```\n"


def descendants(pid: int) -> set[int]:
    try:
        threads = list(Path(f"/proc/{pid}/task").glob("*/children"))
        children = {int(child) for thread in threads for child in thread.read_text().split()}
    except OSError:  # it ended meanwhile
        return set()
    return children.union(*map(descendants, children))


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if os.path.exists(f"/proc/{pid}")}


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.05)


async def judge(items: list[tuple[Prompt, str]], folder: Path) -> list[Verdict]:
    """The verdicts of a pool that is whole afterwards, and of which then nothing is left."""
    pool = VerifierPool(
        Work(CONFIG, ["code"]), {"runtime_env": {"env_vars": {"TMPDIR": str(folder)}}}
    )
    await pool.start()
    try:
        actors = [await a.__ray_call__.remote(lambda _: os.getpid()) for a in pool.actors]
        judging = asyncio.gather(*(pool.verify(items[i : i + 5]) for i in range(0, COUNT, 5)))
        seen: set[int] = set()
        while not judging.done():
            seen.update(*map(descendants, actors))
            await asyncio.sleep(0.1)
        verdicts = [verdict for part in await judging for verdict in part]
        await eventually(lambda: all(len(descendants(actor)) == ACTOR for actor in actors))
        staying = set().union(*map(descendants, actors))
        assert alive(seen) <= staying, "what an attack started is still there"
        replaced = [await a.__ray_call__.remote(lambda a: a.replaced) for a in pool.actors]
        assert pool.replaced == 0 and sum(replaced) == 0
    finally:
        await pool.close()
    await eventually(lambda: not alive(staying))
    assert os.listdir(folder) == []
    assert not [name for name in os.listdir("/tmp") if name.startswith("left")]
    return verdicts


def shown(verdict: Verdict) -> tuple[float, Outcome, str, dict[str, float]]:
    return verdict.reward, verdict.outcome, verdict.detail, verdict.components


@pytest.mark.usefixtures("ray_here")
def test_the_other_rewards_are_the_same(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    items = [honest(dice, number) for number in range(COUNT)]
    quiet = asyncio.run(judge(items, tmp_path))
    assert {v.outcome for v in quiet} >= {Outcome.CORRECT, Outcome.INCORRECT, Outcome.UNPARSEABLE}

    attacks = {**NEVER_ENDING, **WASTEFUL, **FORGED}
    places, chosen = dice.sample(range(COUNT), ATTACKERS), dice.sample(sorted(attacks), ATTACKERS)
    names = dict(zip(places, chosen, strict=True))
    attacked = list(items)
    for place, name in names.items():
        attacked[place] = (items[place][0], f"```python\n{attacks[name]}\n```")
    verdicts = asyncio.run(judge(attacked, tmp_path))
    for place, (before, after) in enumerate(zip(quiet, verdicts, strict=True)):
        if place in names:
            assert after.outcome is not Outcome.CORRECT and after.reward == 0, names[place]
            assert after.outcome is not Outcome.ERROR, (names[place], after.detail)
        else:
            assert shown(after) == shown(before)
