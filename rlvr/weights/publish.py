"""Bring a policy version from the learner to every engine, or say why it did not arrive."""

import asyncio
import time
from collections.abc import Container, Mapping, Sequence
from typing import Any

from ray.actor import ActorHandle

from rlvr.config import WeightsConfig
from rlvr.errors import EngineError, PublishError
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
        gpus_per_engine: tensor-parallel size, which fixes the engines' places in a group.
    """

    def __init__(
        self,
        config: WeightsConfig,
        learners: Sequence[ActorHandle],
        gpus_per_engine: int = 1,
    ) -> None:
        self._config = config
        self._backend = backend_class(config.backend)
        self._learners = {f"learner rank {i}": rank for i, rank in enumerate(learners)}
        self.engines: dict[str, ActorHandle] = {}  # those that take part, by name
        self._gpus_per_engine = gpus_per_engine
        self._announced: dict[str, Any] = {}

    async def start(self, engines: Mapping[str, ActorHandle]) -> None:
        """Form the group with ``engines``; anew, whenever others take part.

        Raises EngineError if some of them fail.
        """
        self.engines = {}
        first, rank0 = next(iter(self._learners.items()))
        [(address, port)] = await self._answers({first: rank0.address.remote()})
        meeting = Meeting(address, port, 1 + len(engines) * self._gpus_per_engine)
        opened = {
            who: rank.open_weights.remote(self._config.backend, meeting)
            for who, rank in self._learners.items()
        }
        initialised = {
            who: engine.control.remote(
                "init_weight_transfer",
                self._backend.engine_init_info(meeting, 1 + i * self._gpus_per_engine),
            )
            for i, (who, engine) in enumerate(engines.items())
        }
        announced, failed = await asyncio.gather(self._answers(opened), self._failed(initialised))
        if failed:
            raise EngineError(failed)
        self._announced = announced[0]
        self.engines = dict(engines)

    async def publish(self, version: int) -> None:
        """Every engine serves ``version`` when this returns.

        Raises EngineError when all others do, and PublishError when a learner rank fails, or an
        engine in the middle of a concurrent send, which then has no end: engines may differ.
        """
        failed: dict[str, PublishError] = {}
        try:
            if self._backend.concurrent:
                told = self._told("update_weights", self._announced, self._deadline())
                await self._answers({**self._sent(version), **told})
            else:
                while (part := (await self._answers(self._sent(version)))[0]) is not None:
                    told = self._told("update_weights", part, self._deadline(), but=failed)
                    failed |= await self._failed(told)
            failed |= await self._failed(self._told("finish_update", version, but=failed))
        finally:
            released: list[Any] = [r.release_weights.remote() for r in self._learners.values()]
            await asyncio.wait([asyncio.ensure_future(r) for r in released], timeout=5.0)
        if failed:
            raise EngineError(failed)

    def _sent(self, version: int) -> dict[str, Any]:
        return {who: rank.send_weights.remote(version) for who, rank in self._learners.items()}

    def _told(self, name: str, *arguments: Any, but: Container[str] = ()) -> dict[str, Any]:
        told = {who: engine for who, engine in self.engines.items() if who not in but}
        return {who: engine.control.remote(name, *arguments) for who, engine in told.items()}

    def _deadline(self) -> float:
        return time.time() + self._config.timeout_s

    async def _failed(self, references: Mapping[str, Any]) -> dict[str, PublishError]:
        """Those that do not answer, and why; it waits for all."""
        failed: dict[str, PublishError] = {}

        async def wait(who: str, reference: Any) -> None:
            try:
                await self._answers({who: reference})
            except PublishError as error:
                failed[who] = error

        await asyncio.gather(*(wait(*named) for named in references.items()))
        return failed

    async def _answers(self, references: Mapping[str, Any]) -> list[Any]:
        return await answers(
            references,
            within_s=self._config.timeout_s,
            error=PublishError,
            key="weights.timeout_s",
        )
