"""Bring a policy version from the learner to every engine, or say why it did not arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

import ray
from ray.actor import ActorHandle

from rlvr.config import WeightsConfig
from rlvr.errors import PublishError


class WeightPublisher:
    """Drives both ends of a transfer from the driver.

    The control calls to the engines are made here, beside the learner's collective and not
    behind it: an engine that raises is heard at once, one that falls silent after
    ``weights.timeout_s``. The engines then still serve the version that they had.

    Args:
        learners: the learner ranks; all of them take part in gathering, rank 0 sends.
        engines: the rollout workers.
        gpus_per_engine: tensor-parallel size, which fixes the engines' places in an nccl group.
    """

    def __init__(
        self,
        config: WeightsConfig,
        backend: str,
        learners: Sequence[ActorHandle],
        engines: Sequence[ActorHandle],
        gpus_per_engine: int = 1,
    ) -> None:
        self._timeout_s = config.timeout_s
        self._backend = backend
        self._learners = learners
        self._engines = engines
        self._gpus_per_engine = gpus_per_engine
        self._announced: dict[str, Any] | None = None

    async def start(self) -> None:
        """Let both ends meet."""
        options: dict[str, Any] = {}
        meeting: list[Awaitable[Any]] = []
        if self._backend == "nccl":
            address, port = await self._bounded(self._learners[0].address.remote(), "learner 0")
            size = 1 + len(self._engines) * self._gpus_per_engine
            options = {"address": address, "port": port, "world_size": size}
        for i, engine in enumerate(self._engines):
            info = engine_init_info(self._backend, options, 1 + i * self._gpus_per_engine)
            meeting.append(self._bounded(engine.init_weight_transfer.remote(info), _engine(i)))
        for i, rank in enumerate(self._learners):
            opened: Any = rank.open_sender.remote(self._backend, options)
            meeting.append(self._bounded(opened, f"learner rank {i}"))
        await self._all(meeting)
        if self._backend == "nccl":
            called: Any = self._learners[0].announce_weights.remote()
            self._announced = await self._bounded(called, "learner 0")

    async def publish(self, version: int) -> None:
        """Every engine serves ``version`` when this returns; PublishError leaves the old one."""
        sending = [
            self._bounded(rank.send_weights.remote(version), f"learner rank {i}")
            for i, rank in enumerate(self._learners)
        ]
        try:
            if self._announced is not None:
                await self._all([*sending, *self._receiving(self._announced, version)])
            else:
                info, *_ = await self._all(sending)
                await self._all(self._receiving(info, version))
        finally:
            released = [_await(rank.release_weights.remote()) for rank in self._learners]
            await asyncio.wait([asyncio.ensure_future(r) for r in released], timeout=5.0)

    def _receiving(self, info: dict[str, Any], version: int) -> list[Awaitable[Any]]:
        return [
            self._bounded(engine.update_weights.remote(info, version), _engine(i))
            for i, engine in enumerate(self._engines)
        ]

    async def _all(self, calls: Sequence[Awaitable[Any]]) -> list[Any]:
        """Gather, raising the first error without waiting for the rest."""
        tasks = [asyncio.ensure_future(c) for c in calls]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _bounded(self, reference: Any, who: str) -> Any:
        try:
            return await asyncio.wait_for(_await(reference), self._timeout_s)
        except TimeoutError:
            raise PublishError(
                f"{who} did not answer within {self._timeout_s:g} s (weights.timeout_s) of a "
                f"weight transfer over {self._backend}"
            ) from None
        except ray.exceptions.RayError as error:
            raise PublishError(
                f"{who} failed in a weight transfer over {self._backend}:\n{error}"
            ) from error


def engine_init_info(backend: str, options: dict[str, Any], rank_offset: int) -> dict[str, Any]:
    """What vLLM's ``init_weight_transfer_engine`` takes for ``backend``."""
    if backend == "nccl":
        return {
            "master_address": options["address"],
            "master_port": options["port"],
            "world_size": options["world_size"],
            "rank_offset": rank_offset,
            "packed": True,
        }
    return {"packed": False} if backend == "ipc" else {}


def _engine(i: int) -> str:
    return f"rollout worker {i}"


async def _await(reference: Any) -> Any:
    return await reference
