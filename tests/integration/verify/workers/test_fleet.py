"""The fleet of verifier processes, without Ray."""

import asyncio
import os
import pickle
import random
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from rlvr.config import VerifierConfig
from rlvr.errors import VerifierError
from rlvr.task import Outcome, Prompt, Verdict
from rlvr.verify.workers.fleet import Fleet
from rlvr.verify.workers.work import Work
from rlvr.verify.workers.worker import decode


class Verification:
    """A fleet and what came out of it."""

    def __init__(self, config: VerifierConfig, verifier: str) -> None:
        self.verifier = verifier
        self.verdicts: dict[int, Verdict] = {}
        self.order: list[int] = []
        self.limit_s = config.timeout_s
        self.fleet = Fleet(Work(config, [verifier]))
        self._next = 0

    async def judge(self, texts: Sequence[str], gold: str = "ok") -> list[Verdict]:
        ids = range(self._next, self._next + len(texts))
        self._next += len(texts)
        prompt = Prompt("p", (), "", gold, self.verifier)
        tasks = [
            (i, pickle.dumps((prompt, text)), self.limit_s)
            for i, text in zip(ids, texts, strict=True)
        ]
        async with asyncio.timeout(60):
            while not self.verdicts.keys() >= set(ids):
                for task_id, verdict in await self.fleet.exchange(tasks):
                    assert task_id not in self.verdicts
                    self.verdicts[task_id] = decode(verdict)
                    self.order.append(task_id)
                tasks = []
        return [self.verdicts[i] for i in ids]

    async def at_full_strength(self) -> list[int]:
        async with asyncio.timeout(60):
            while len(self.pids()) < self.fleet.size:
                await asyncio.sleep(0.01)
        return self.pids()

    def pids(self) -> list[int]:
        return workers(self.nursery())

    def nursery(self) -> int:
        return self.fleet.nursery.process.pid


@asynccontextmanager
async def running(verifier: str, **settings: float) -> AsyncIterator[Verification]:
    config = VerifierConfig(**{"processes": 2, "timeout_s": 1.0, "memory_mib": 256, **settings})
    verification = Verification(config, verifier)
    await verification.fleet.start()
    pids = await verification.at_full_strength()
    try:
        yield verification
        pids += verification.pids()
    finally:
        await verification.fleet.close()
    for pid in pids:
        assert not alive(pid)


def workers(nursery: int) -> list[int]:
    """Process ids of the living children of a nursery's keepers."""
    return [pid for keeper in children(nursery) for pid in children(keeper) if alive(pid)]


def children(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return list(map(int, file.read().split()))
    except OSError:
        return []


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def outcomes(verdicts: Sequence[Verdict]) -> list[Outcome]:
    return [v.outcome for v in verdicts]


@pytest.mark.parametrize("text", ["sleep 1000", "spin", "ignore-signals", "spawn 1000"])
def test_one_that_never_ends_costs_only_itself(misbehaving: str, text: str) -> None:
    async def scenario() -> None:
        async with running(misbehaving) as verification:
            texts = ["ok"] * 100
            texts[random.randrange(100)] = text
            start = time.monotonic()
            verdicts = await verification.judge(texts)
            took = time.monotonic() - start
            for given, verdict in zip(texts, verdicts, strict=True):
                expected = Outcome.CORRECT if given == "ok" else Outcome.TIMEOUT
                assert verdict.outcome is expected
                assert verdict.reward == float(given == "ok")
            assert 1.0 <= took < 20.0  # the pool would wait for half a minute
            assert len(await verification.at_full_strength()) == 2

    asyncio.run(scenario())


def test_nobody_waits_behind_a_slow_one(misbehaving: str) -> None:
    async def scenario() -> None:
        async with running(misbehaving, timeout_s=20.0) as verification:
            await verification.judge(["ok"] * 100)  # quick ones widen the windows
            verification.order.clear()
            texts = ["ok"] * 60
            texts[30] = "sleep 1.5"
            await verification.judge(texts)
            assert verification.order[-1] == 130
            assert sorted(verification.order) == list(range(100, 160))
            await verification.judge(["ok"] * 40)
            assert verification.fleet.replaced == 0

    asyncio.run(scenario())


def test_what_it_started_dies_with_it(misbehaving: str) -> None:
    async def scenario() -> None:
        async with running(misbehaving) as verification:
            await verification.judge(["spawn 98765"])
            await verification.at_full_strength()
            commands = []
            for pid in filter(str.isdigit, os.listdir("/proc")):
                try:
                    with open(f"/proc/{pid}/cmdline") as file:
                        commands.append(file.read())
                except OSError:
                    pass
            assert not [c for c in commands if "98765" in c]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("text", "reason"),
    [("die", "SIGSEGV"), ("exit", "exit status 0"), ("eat", "memory_mib=256")],
)
def test_one_that_kills_its_process_is_an_error_after_one_retry(
    misbehaving: str, text: str, reason: str
) -> None:
    async def scenario() -> None:
        async with running(misbehaving, timeout_s=20.0) as verification:
            verdicts = await verification.judge(["ok", text, "ok", "ok", text, *["ok"] * 20])
            assert [i for i, v in enumerate(verdicts) if v.outcome is Outcome.ERROR] == [1, 4]
            assert outcomes(verdicts).count(Outcome.CORRECT) == 23
            assert reason in verdicts[1].detail
            assert "twice" in verdicts[1].detail
            assert verdicts[1].reward == 0
            await verification.at_full_strength()
            assert verification.fleet.replaced == 4

    asyncio.run(scenario())


def test_a_process_that_is_killed_costs_no_verdict(misbehaving: str) -> None:
    async def scenario() -> None:
        async with running(misbehaving, timeout_s=20.0) as verification:
            judging = asyncio.create_task(
                verification.judge(["sleep 0.02"] * 60, gold="sleep 0.02")
            )
            await asyncio.sleep(0.2)
            for pid in verification.pids():
                os.kill(pid, signal.SIGKILL)
            assert set(outcomes(await judging)) == {Outcome.CORRECT}
            await verification.at_full_strength()
            assert verification.fleet.replaced == 2

    asyncio.run(scenario())


def test_a_verifier_that_fails_is_an_error_with_its_traceback(misbehaving: str) -> None:
    async def scenario() -> None:
        async with running(misbehaving) as verification:
            verdicts = await verification.judge(["raise my words", "nonsense", "nan", "ok"])
            assert outcomes(verdicts) == [Outcome.ERROR] * 3 + [Outcome.CORRECT]
            assert "ValueError: my words" in verdicts[0].detail
            assert "returned a str instead of a Verdict" in verdicts[1].detail
            assert "reward nan" in verdicts[2].detail
            assert verification.fleet.replaced == 0

    asyncio.run(scenario())


def test_processes_are_renewed(misbehaving: str) -> None:
    async def scenario() -> None:
        async with running(
            misbehaving, processes=1, timeout_s=10, recycle_after=10
        ) as verification:
            verdicts = await verification.judge(["pid"] * 35)
            assert len({v.detail for v in verdicts}) == 4
            assert verification.order == list(range(35))
        async with running(misbehaving, processes=1, timeout_s=10) as verification:
            before = await verification.judge(["pid", "grow 100", "pid"])
            assert before[0].detail == before[2].detail
            after = await verification.judge(["grow 200", "pid"])
            assert after[1].detail != before[0].detail

    asyncio.run(scenario())


def test_the_same_verdicts_whatever_the_number_of_processes() -> None:
    golds = ["5", r"\frac{1}{2}", r"\sqrt{8}", "(1, 2)", r"\text{east}", "x^2 - 1"]
    texts = [
        f"\\boxed{{{a}}}"
        for a in ["5", "0.5", r"2\sqrt{2}", "(1,2)", "East", "(x-1)(x+1)", "9^{9^{9}}", "", "}"]
    ] + ["nothing"]

    async def scenario(processes: int) -> list[tuple[float, Outcome, str]]:
        async with running("math", processes=processes, timeout_s=30.0) as verification:
            verdicts = []
            for gold in golds:
                verdicts += await verification.judge(texts, gold)
            return [(v.reward, v.outcome, v.detail) for v in verdicts]

    alone = asyncio.run(scenario(1))
    assert sum(reward for reward, _, _ in alone) == len(golds)
    assert asyncio.run(scenario(3)) == alone


def test_a_verifier_that_cannot_be_imported_says_so_at_the_start() -> None:
    async def scenario() -> None:
        fleet = Fleet(Work(VerifierConfig(), ["rlvr.no_such_verifier"]))
        with pytest.raises(VerifierError, match="no such module"):
            await fleet.start()

    asyncio.run(scenario())


def test_a_lost_nursery_takes_its_workers_along_and_is_reported(misbehaving: str) -> None:
    async def scenario() -> None:
        async with running(misbehaving) as verification:
            pids = verification.pids()
            os.kill(verification.nursery(), signal.SIGKILL)
            with pytest.raises(VerifierError, match="nursery"):
                await verification.judge(["sleep 30"] * 10)
            await asyncio.sleep(0.5)
            assert not any(map(alive, pids))

    asyncio.run(scenario())


def test_workers_are_replaced_soon(misbehaving: str) -> None:
    async def scenario() -> list[float]:
        took = []
        async with running(misbehaving, processes=1) as verification:
            loop = asyncio.get_running_loop()
            for _ in range(3):
                [before] = verification.pids()
                start = loop.time()
                os.kill(before, signal.SIGKILL)
                while verification.pids() in ([], [before]):
                    await asyncio.sleep(0.005)
                took.append(loop.time() - start)
                assert outcomes(await verification.judge(["ok"])) == [Outcome.CORRECT]
        return took

    assert min(asyncio.run(scenario())) < 5.0  # 0.1 s where nobody else works


def test_the_number_of_workers_follows_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for cpus, size in ((1, 1), (2, 1), (8, 2), (192, 48)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cpus=cpus: set(range(cpus)))
        assert Fleet(Work(VerifierConfig())).size == size
    assert Fleet(Work(VerifierConfig(processes=3))).size == 3
