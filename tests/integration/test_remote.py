"""Every wait for an actor ends: with its answer, its own error, or the time limit by name."""

from __future__ import annotations

import asyncio
import time

import pytest
import ray

from rlvr.errors import RunError
from rlvr.remote import answer, answers


@ray.remote(num_cpus=0)
class Clerk:
    async def add(self, a: int, b: int) -> int:
        return a + b

    async def hang(self) -> None:
        await asyncio.sleep(600)

    async def fail(self) -> None:
        raise TimeoutError("the ink is dry")


@pytest.fixture(scope="module")
def clerk(ray_here):
    clerk = Clerk.remote()
    yield clerk
    ray.kill(clerk)


def test_answers_come_in_the_order_of_the_questions(clerk):
    asked = {f"clerk {i}": clerk.add.remote(i, 1) for i in range(5)}
    assert asyncio.run(answers(asked, within_s=60, error=RunError)) == [1, 2, 3, 4, 5]


def test_silence_ends_with_the_limit_and_its_key(clerk):
    with pytest.raises(RunError, match=r"^clerk 7 did not answer within 0\.3 s \(desk\.limit_s\)$"):
        asyncio.run(
            answer(clerk.hang.remote(), "clerk 7", within_s=0.3, error=RunError, key="desk.limit_s")
        )


def test_the_first_error_does_not_wait_for_the_rest_and_keeps_its_words(clerk):
    asked = {"clerk 0": clerk.hang.remote(), "clerk 1": clerk.fail.remote()}
    started = time.monotonic()
    with pytest.raises(RunError, match=r"clerk 1 failed:[\s\S]*the ink is dry"):
        asyncio.run(answers(asked, within_s=60, error=RunError))
    assert time.monotonic() - started < 45


def test_a_dead_actor_is_named(ray_here):
    clerk = Clerk.remote()
    ray.kill(clerk)
    with pytest.raises(RunError, match="clerk 2 failed:"):
        asyncio.run(answer(clerk.add.remote(1, 1), "clerk 2", within_s=60, error=RunError))
