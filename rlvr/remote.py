"""Answers of Ray actors: every wait has a limit, every error a name."""

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_NO_ROOM = "\nIf none of this is so, see whether its machine has room for Ray's files, in /tmp/ray."
_MACHINE_S = 120.0  # by then Ray has given up a machine that does not answer


async def answer(
    reference: Awaitable[Any], who: str, *, within_s: float, error: type[Exception], key: str = ""
) -> Any:
    """Await one Ray call, what ``actor.method.remote(...)`` returned.

    ``error`` is raised for a time-out as for the actor's own error, with ``who`` as its subject
    (``rollout worker 3``) and the configuration's ``key`` behind ``within_s``.
    """
    [result] = await answers({who: reference}, within_s=within_s, error=error, key=key)
    return result


def summary(error: BaseException) -> str:
    """One line for a terminal: who failed, and of what."""
    lines = [line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()]
    failure = error.__cause__
    if not isinstance(failure, ray.exceptions.RayError):
        return lines[0]
    # A traceback ends with its error; Ray's own words begin with what happened.
    return f"{lines[0]} {lines[-1 if isinstance(failure, ray.exceptions.RayTaskError) else 1]}"


async def answers(
    references: Mapping[str, Awaitable[Any]],
    *,
    within_s: float,
    error: type[Exception],
    key: str = "",
) -> list[Any]:
    """Await many Ray calls, each under its name; see ``answer``.

    The first error is raised without waiting for the rest, which may be waiting for the one
    that failed.
    """

    async def one(who: str, reference: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout(within_s):
                return await reference
        except ray.exceptions.RayError as failure:  # first: it can be a TimeoutError as well
            hint = _NO_ROOM if "worker process has died" in str(failure) else ""
            raise error(f"{who} failed:\n{failure}{hint}") from failure
        except TimeoutError:
            named = f" ({key})" if key else ""
            raise error(f"{who} did not answer within {within_s:g} s{named}") from None

    waiting = [asyncio.ensure_future(one(*named)) for named in references.items()]
    try:
        return await asyncio.gather(*waiting)
    finally:
        for task in waiting:
            task.cancel()


async def lost(address: str) -> bool:
    """Whether the machine at ``address`` has left; waits until it answers or Ray gives it up."""
    nodes = {n["NodeManagerAddress"]: n["NodeID"] for n in ray.nodes() if n["Alive"]}
    if address not in nodes:
        return True
    there = NodeAffinitySchedulingStrategy(nodes[address], soft=False)
    try:
        async with asyncio.timeout(_MACHINE_S):
            await _nothing.options(scheduling_strategy=there).remote()
    except (ray.exceptions.RayError, TimeoutError):
        return True
    return False


@ray.remote(num_cpus=0, max_retries=0)
def _nothing() -> None:
    """What any machine can do."""
