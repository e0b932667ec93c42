"""The verifier pool on a real Ray cluster."""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import ray

from rlvr.config import VerifierConfig
from rlvr.errors import ConfigError, VerifierError
from rlvr.types import Outcome, Prompt, Verdict
from rlvr.verify.workers.pool import VerifierPool
from rlvr.verify.workers.work import Work

pytestmark = pytest.mark.usefixtures("ray_cluster")


@asynccontextmanager
async def running(verifier: str, **settings: float) -> AsyncIterator[VerifierPool]:
    config = VerifierConfig(**{"timeout_s": 2.0, "memory_mib": 256, **settings})
    path = {"PYTHONPATH": str(Path(__file__).parents[1])}
    pool = VerifierPool(Work(config, [verifier]), {"runtime_env": {"env_vars": path}})
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()


def item(text: str, gold: str = "ok", verifier: str = "misbehaving.verifier") -> tuple[Prompt, str]:
    return Prompt("p", [1, 2, 3], "question", gold, verifier), text


async def worker_pids(pool: VerifierPool) -> list[int]:
    nurseries = [await a.__ray_call__.remote(nursery) for a in pool.actors]
    return [worker for pid in nurseries for keeper in children(pid) for worker in children(keeper)]


def nursery(fleet: Any) -> int:
    return fleet.nursery.process.pid


def children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return list(map(int, file.read().split()))


def running_processes(pids: list[int]) -> list[int]:
    found = []
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rsplit(")", 1)[1].split()[0] != "Z":
                    found.append(pid)
        except FileNotFoundError:
            pass
    return found


def test_verdicts_come_back_in_order_from_many_callers(seed: int) -> None:
    async def scenario() -> None:
        dice = random.Random(seed)
        async with running("math", actors=2, processes=2, timeout_s=30.0) as pool:

            async def caller() -> int:
                golds = [str(dice.randint(0, 99)) for _ in range(dice.randint(0, 60))]
                right = [dice.random() < 0.5 for _ in golds]
                items = [
                    item(f"so \\boxed{{{gold if r else int(gold) + 1}}}", gold, "math")
                    for gold, r in zip(golds, right, strict=True)
                ]
                await asyncio.sleep(dice.random() / 2)
                verdicts = await pool.verify(items)
                assert [v.reward for v in verdicts] == list(map(float, right))
                assert all(isinstance(v, Verdict) for v in verdicts)
                assert [v.outcome for v in verdicts] == [
                    Outcome.CORRECT if r else Outcome.INCORRECT for r in right
                ]
                return len(items)

            total = sum(await asyncio.gather(*(caller() for _ in range(40))))
            assert total
            assert pool.replaced == 0

    asyncio.run(scenario())


def test_the_verifier_gets_no_tokens(misbehaving: str) -> None:
    async def scenario() -> None:
        async with running(misbehaving) as pool:
            assert [v.reward for v in await pool.verify([item("tokens")])] == [1.0]
            assert await pool.verify([]) == []

    asyncio.run(scenario())


def test_a_first_verdict_that_takes_long_is_waited_for(misbehaving: str) -> None:
    async def scenario() -> None:
        async with running(misbehaving, timeout_s=20.0) as pool:
            [verdict] = await pool.verify([item("sleep 0.8", "sleep 0.8")])
            assert verdict.outcome is Outcome.CORRECT
            assert pool.replaced == 0

    asyncio.run(scenario())


def test_one_among_many_that_never_ends(misbehaving: str) -> None:
    async def scenario() -> None:
        async with running(misbehaving, processes=2) as pool:
            items = [item("ok") for _ in range(1000)]
            items[dice := random.randrange(1000)] = item("spin")
            verdicts = await pool.verify(items)
            assert pool.replaced == 0
            timeouts = [i for i, v in enumerate(verdicts) if v.outcome is Outcome.TIMEOUT]
            assert timeouts == [dice]
            assert sum(v.outcome is Outcome.CORRECT for v in verdicts) == 999

            # Meanwhile others are served.
            slow = asyncio.create_task(pool.verify([item("spin")]))
            await asyncio.sleep(0.3)
            await pool.verify([item("ok")] * 20)
            assert not slow.done()
            assert (await slow)[0].outcome is Outcome.TIMEOUT

    asyncio.run(scenario())


def test_a_dead_actor_is_replaced_and_its_work_done_again(misbehaving: str) -> None:
    async def scenario() -> None:
        async with running(misbehaving, actors=2, timeout_s=20.0) as pool:
            before = await worker_pids(pool)
            judging = asyncio.create_task(pool.verify([item("sleep 0.02", "sleep 0.02")] * 200))
            await asyncio.sleep(0.5)
            ray.kill(pool.actors[0])
            verdicts = await judging
            assert {v.outcome for v in verdicts} == {Outcome.CORRECT}
            assert len(verdicts) == 200
            assert pool.replaced == 1
            assert len(running_processes(before)) == 1
            assert len(running_processes(await worker_pids(pool))) == 2

    asyncio.run(scenario())


def test_a_successor_that_dies_as_it_starts_is_replaced_too(misbehaving: str, capfd) -> None:
    async def scenario() -> None:
        async with running(misbehaving, timeout_s=20.0) as pool:
            create, victims = pool._create, []

            def create_and_kill_the_first():
                machine, actor = create()
                victims.append(actor)
                if len(victims) == 1:
                    ray.kill(actor)
                return machine, actor

            pool._create = create_and_kill_the_first
            ray.kill(pool.actors[0])
            verdicts = await pool.verify([item("ok")] * 20)
            assert [v.outcome for v in verdicts] == [Outcome.CORRECT] * 20
            assert pool.replaced == len(victims) == 2

    asyncio.run(scenario())
    told = [line for line in capfd.readouterr().out.splitlines() if "is replaced" in line]
    assert len(told) == 2 and all(line.startswith("verifier actor 0 failed: ") for line in told)


def test_a_stopped_actor_is_replaced(misbehaving: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlvr.verify.workers.pool._ANSWER_S", 2.0)

    async def scenario() -> None:
        async with running(misbehaving) as pool:
            pid = await pool.actors[0].__ray_call__.remote(lambda _: os.getpid())
            os.kill(pid, 19)  # SIGSTOP
            verdicts = await pool.verify([item("ok")] * 10)
            assert {v.outcome for v in verdicts} == {Outcome.CORRECT}
            assert pool.replaced == 1

    asyncio.run(scenario())


def test_nothing_is_left_behind(misbehaving: str) -> None:
    async def scenario() -> list[int]:
        async with running(misbehaving, processes=3) as pool:
            waiting = asyncio.create_task(pool.verify([item("sleep 100")] * 3))
            await asyncio.sleep(0.5)
            pids = await worker_pids(pool)
            assert len(running_processes(pids)) == 3
        with pytest.raises(VerifierError, match="closed"):
            await waiting
        with pytest.raises(VerifierError, match="closed"):
            await pool.verify([item("ok")])
        await asyncio.sleep(0.5)
        return running_processes(pids)

    assert asyncio.run(scenario()) == []


def test_a_verifier_that_cannot_be_used_is_reported_at_the_start(tmp_path: Path) -> None:
    async def start(name: str) -> None:
        async with running(name):
            pass

    with pytest.raises(ConfigError, match="Did you mean 'math'"):
        asyncio.run(start("maths"))
    with pytest.raises(VerifierError, match="does not set VERIFIER"):
        asyncio.run(start("rlvr.verify.answer"))


def test_callers_wait_while_the_queues_are_full(
    misbehaving: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlvr.verify.workers.pool.QUEUE", 16)

    async def scenario() -> None:
        async with running(misbehaving) as pool:
            judging = [asyncio.create_task(pool.verify([item("ok")] * 50)) for _ in range(4)]
            await asyncio.sleep(0)
            assert sum(len(slot.tasks) for slot in pool._slots) == 16
            assert [len(await j) for j in judging] == [50] * 4

    asyncio.run(scenario())
