"""Bring a policy version from the learner to every engine, or say why it did not arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from ray.actor import ActorHandle

from rlvr.config import WeightsConfig
from rlvr.errors import PublishError
from rlvr.remote import answers


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
        if self._backend == "nccl":
            [(address, port)] = await self._answers(
                {"learner rank 0": self._learners[0].address.remote()}
            )
            size = 1 + len(self._engines) * self._gpus_per_engine
            options = {"address": address, "port": port, "world_size": size}
        meeting: dict[str, Any] = {}
        for i, engine in enumerate(self._engines):
            info = engine_init_info(self._backend, options, 1 + i * self._gpus_per_engine)
            meeting[f"rollout worker {i}"] = engine.init_weight_transfer.remote(info)
        for i, rank in enumerate(self._learners):
            meeting[f"learner rank {i}"] = rank.open_sender.remote(self._backend, options)
        await self._answers(meeting)
        if self._backend == "nccl":
            [self._announced] = await self._answers(
                {"learner rank 0": self._learners[0].announce_weights.remote()}
            )

    async def publish(self, version: int) -> None:
        """Every engine serves ``version`` when this returns; PublishError leaves the old one."""
        sending = {
            f"learner rank {i}": rank.send_weights.remote(version)
            for i, rank in enumerate(self._learners)
        }
        try:
            if self._announced is not None:
                await self._answers({**sending, **self._receiving(self._announced, version)})
            else:
                info, *_ = await self._answers(sending)
                await self._answers(self._receiving(info, version))
        finally:
            released = [_await(rank.release_weights.remote()) for rank in self._learners]
            await asyncio.wait([asyncio.ensure_future(r) for r in released], timeout=5.0)

    def _receiving(self, info: dict[str, Any], version: int) -> dict[str, Any]:
        return {
            f"rollout worker {i}": engine.update_weights.remote(info, version)
            for i, engine in enumerate(self._engines)
        }

    async def _answers(self, references: Mapping[str, Any]) -> list[Any]:
        return await answers(
            references,
            within_s=self._timeout_s,
            error=PublishError,
            key="weights.timeout_s",
        )


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


async def _await(reference: Any) -> Any:
    return await reference
