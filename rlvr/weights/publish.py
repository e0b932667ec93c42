"""Bring a policy version from the learner to every engine, or say why it did not arrive."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ray.actor import ActorHandle

from rlvr.config import WeightsConfig
from rlvr.errors import PublishError
from rlvr.remote import answers
from rlvr.weights.base import Meeting, backend_class


class WeightPublisher:
    """Drives both ends of a transfer from the driver.

    The control calls to the engines are made here, beside the learner's collective and not
    behind it: an engine that raises is heard at once, one that falls silent after
    ``weights.timeout_s``.

    Args:
        config: the backend, resolved, and the time limit.
        learners: the learner ranks; all of them take part in gathering, rank 0 sends.
        engines: the rollout workers.
        gpus_per_engine: tensor-parallel size, which fixes the engines' places in a group.
    """

    def __init__(
        self,
        config: WeightsConfig,
        learners: Sequence[ActorHandle],
        engines: Sequence[ActorHandle],
        gpus_per_engine: int = 1,
    ) -> None:
        self._config = config
        self._backend = backend_class(config.backend)
        self._learners = {f"learner rank {i}": rank for i, rank in enumerate(learners)}
        self._engines = {f"rollout worker {i}": engine for i, engine in enumerate(engines)}
        self._gpus_per_engine = gpus_per_engine
        self._announced: dict[str, Any] = {}

    async def start(self) -> None:
        first, rank0 = next(iter(self._learners.items()))
        [(address, port)] = await self._answers({first: rank0.address.remote()})
        meeting = Meeting(address, port, 1 + len(self._engines) * self._gpus_per_engine)
        opened = {
            who: rank.open_weights.remote(self._config.backend, meeting)
            for who, rank in self._learners.items()
        }
        initialised = {
            who: engine.control.remote(
                "init_weight_transfer",
                self._backend.engine_init_info(meeting, 1 + i * self._gpus_per_engine),
            )
            for i, (who, engine) in enumerate(self._engines.items())
        }
        self._announced, *_ = await self._answers({**opened, **initialised})

    async def publish(self, version: int) -> None:
        """Every engine serves ``version`` when this returns.

        After a PublishError engines may differ. One whose load has failed serves what it had,
        if the backend sends a version in one part.
        """
        try:
            if self._backend.concurrent:
                told = self._told("update_weights", self._announced, self._deadline())
                await self._answers({**self._sent(version), **told})
            else:
                while (part := (await self._answers(self._sent(version)))[0]) is not None:
                    await self._answers(self._told("update_weights", part, self._deadline()))
            await self._answers(self._told("finish_update", version))
        finally:
            released: list[Any] = [r.release_weights.remote() for r in self._learners.values()]
            await asyncio.wait([asyncio.ensure_future(r) for r in released], timeout=5.0)

    def _sent(self, version: int) -> dict[str, Any]:
        return {who: rank.send_weights.remote(version) for who, rank in self._learners.items()}

    def _told(self, name: str, *arguments: Any) -> dict[str, Any]:
        return {who: e.control.remote(name, *arguments) for who, e in self._engines.items()}

    def _deadline(self) -> float:
        return time.time() + self._config.timeout_s

    async def _answers(self, references: Mapping[str, Any]) -> list[Any]:
        return await answers(
            references,
            within_s=self._config.timeout_s,
            error=PublishError,
            key="weights.timeout_s",
        )
