"""Attacks among honest responses: those keep their rewards, the fleet keeps its strength."""

import asyncio
import json
import os
import pickle
import random
import time
from dataclasses import replace

import pytest

from rlvr.config import CodeConfig, VerifierConfig
from rlvr.task import Outcome, Prompt, Verdict
from rlvr.verify.workers.fleet import Fleet
from rlvr.verify.workers.work import Work
from rlvr.verify.workers.worker import decode

CONFIG = VerifierConfig(
    processes=2,
    timeout_s=3.0,
    memory_mib=1024,
    code=CodeConfig(wall_s=2.0, cpu_s=1, memory_mib=256, output_mib=1, disk_mib=4),
)
NOT_RIGHT = (Outcome.INCORRECT, Outcome.UNPARSEABLE, Outcome.TIMEOUT, Outcome.ERROR)

MATH_ATTACKS = [
    "9**9**9",
    r"\boxed{9**9**9}",
    r"\boxed{9^{9^{9}}}",
    r"\boxed{" + "!".join(["9"] * 50) + "!" * 30 + "}",
    r"\boxed{((((9!)!)!)!)!}",
    r"\boxed{4",
    r"\boxed{" * 5000 + "4",
    "{" * 2**20,
    r"\boxed{" + "{" * 2**20,
    r"\boxed{" + "{" * 2**19 + "}" * 2**19 + "}",
    r"\boxed{3}" * 20_000,
    r"\boxed{\frac{" * 3000 + "}" * 6000,
    r"\boxed{" + r"\sqrt{" * 500 + "2" + "}" * 501,
    r"\boxed{\sum_{k=1}^{10^{12}} k^k}",
    r"\boxed{\int_0^1 \sin(x^{x^{x^x}})^{99} dx}",
    r"\boxed{\begin{pmatrix}" + r"1 & 2 \\" * 3000 + r"\end{pmatrix}}",
    r"\boxed{" + ",".join(map(str, range(100_000))) + "}",
    "\\boxed{\0\u202e\ud800\U0001f4a3}",
    r"\boxed{__import__('os').system('touch /tmp/left')}",
    "",
]


async def judge(fleet: Fleet, items: list[tuple[Prompt, str]], got: dict[int, bytes]) -> None:
    tasks = [(number, pickle.dumps(item), CONFIG.timeout_s) for number, item in enumerate(items)]
    async with asyncio.timeout(120):
        while len(got) < len(items):
            got.update(await fleet.exchange(tasks))
            tasks = []


def verdicts(items: list[tuple[Prompt, str]], verifiers: list[str]) -> list[Verdict]:
    """Each item's verdict, in order; checks that the fleet is whole afterwards and then gone."""
    got: dict[int, bytes] = {}

    async def scenario() -> None:
        fleet = Fleet(Work(CONFIG, verifiers))
        await fleet.start()
        try:
            await judge(fleet, items, got)
            async with asyncio.timeout(60):
                while len(workers(fleet)) < CONFIG.processes:
                    await asyncio.sleep(0.02)
            pids = workers(fleet)
        finally:
            await fleet.close()
        assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]

    asyncio.run(scenario())
    return [decode(got[i]) for i in range(len(items))]


def test_formulas_that_explode() -> None:
    start = time.monotonic()
    gold = Prompt("p", (), "", "4", "math")
    items = [(gold, r"so \boxed{4}")] * 20
    items += [(gold, attack) for attack in MATH_ATTACKS]
    random.shuffle(items)
    given = verdicts(items, ["math"])
    for (_, text), verdict in zip(items, given, strict=True):
        if text == r"so \boxed{4}":
            assert verdict.outcome is Outcome.CORRECT
        else:
            assert verdict.outcome in NOT_RIGHT[:3], text[:80]
            assert verdict.reward == 0
    assert not os.path.exists("/tmp/left")
    # Nearly all of them are seen through before they cost any time.
    slow = [t[:80] for (_, t), v in zip(items, given, strict=True) if v.outcome is Outcome.TIMEOUT]
    assert len(slow) <= 2, slow
    assert time.monotonic() - start < 90


def test_a_worker_that_dies_takes_its_sandbox_along() -> None:
    prompt = Prompt("p", (), "", json.dumps({"inputs": [""], "outputs": [""]}), "code")
    marker = f"x = {random.randrange(10**9)}"

    async def scenario() -> None:
        got: dict[int, bytes] = {}
        fleet = Fleet(Work(replace(CONFIG, processes=1), ["code"]))
        await fleet.start()
        try:
            item = prompt, f"{marker}\nimport time\ntime.sleep(600)"
            judging = asyncio.create_task(judge(fleet, [item], got))
            async with asyncio.timeout(60):
                # bubblewrap, its init, the fork server, a keeper, the host, the program
                while not workers(fleet) or len(started := descendants(workers(fleet)[0])) < 6:
                    await asyncio.sleep(0.01)
            os.kill(workers(fleet)[0], 9)
            async with asyncio.timeout(60):
                await judging
            assert decode(got[0]).outcome is Outcome.TIMEOUT  # it was tried again
            async with asyncio.timeout(60):
                while any(os.path.exists(f"/proc/{pid}") for pid in started):
                    await asyncio.sleep(0.02)
        finally:
            await fleet.close()

    asyncio.run(scenario())


def workers(fleet: Fleet) -> list[int]:
    return [pid for keeper in children(fleet.nursery.process.pid) for pid in children(keeper)]


def descendants(pid: int) -> list[int]:
    found = children(pid)
    return found + [below for child in found for below in descendants(child)]


def children(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return list(map(int, file.read().split()))
    except OSError:
        return []


def test_without_bubblewrap_nothing_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike[str]
) -> None:
    async def scenario() -> None:
        fleet = Fleet(Work(CONFIG, ["code"]))
        try:
            await fleet.start()
        finally:
            await fleet.close()

    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Exception, match="apt-get install bubblewrap") as refusal:
        asyncio.run(scenario())
    assert "Traceback" not in str(refusal.value)
    monkeypatch.setattr(CONFIG.code, "sandbox", "none")
    with pytest.raises(Exception, match="Valid: bubblewrap, unsafe"):
        asyncio.run(scenario())
    monkeypatch.setattr(CONFIG.code, "sandbox", "unsafe")
    asyncio.run(scenario())
