"""The processes of a run: started together, stopped together."""

import asyncio
import os
import signal
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Self

from rlvr.config import RunConfig
from rlvr.learner.group import LearnerGroup
from rlvr.loop.cluster import Placement, connect, reserve
from rlvr.rollout.pool import RolloutPool
from rlvr.telemetry.progress import phase
from rlvr.verify.workers.pool import VerifierPool
from rlvr.weights.publish import WeightPublisher

# How a request is sampled is the request's own affair.
_SAMPLING: dict[str, Any] = dict.fromkeys(
    ("group_size", "temperature", "top_p", "top_k", "max_response_tokens"), 0
)


class Actors:
    """Everything that runs in other processes."""

    def __init__(
        self,
        config: RunConfig,
        placement: Placement,
        pad_token_id: int,
        verifier_names: Sequence[str],
    ) -> None:
        self._built_from = _built_from(config, pad_token_id, verifier_names)
        self._placement = placement
        self.rollout = RolloutPool(config, placement.engines)
        self.verifiers = VerifierPool(
            config.verifier, placement.verifiers, verifiers=verifier_names
        )
        self.learners = LearnerGroup(config, pad_token_id, placement.learners)
        self.weights: WeightPublisher

    @classmethod
    async def start(
        cls, config: RunConfig, pad_token_id: int, verifier_names: Sequence[str]
    ) -> Self:
        """Start all kinds at once; an error leaves none behind."""
        with phase("starting Ray"):
            connect(config)
        # Ray takes SIGTERM for itself when it connects; here it shall end a run as Ctrl-C does.
        interrupt = partial(os.kill, os.getpid(), signal.SIGINT)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, interrupt)
        actors = cls(config, await reserve(config), pad_token_id, verifier_names)
        try:
            await actors._start(config)
        except BaseException:
            await actors.close()
            raise
        return actors

    async def _start(self, config: RunConfig) -> None:
        with phase(
            f"starting {config.rollout.workers} vLLM, {config.learner.ranks} DeepSpeed and "
            f"{config.verifier.actors} verifier workers"
        ):
            async with asyncio.TaskGroup() as starting:
                starting.create_task(self.rollout.start())
                starting.create_task(self.learners.start())
                starting.create_task(self.verifiers.start())
        ends = self.learners.workers, self.rollout.actors
        self.weights = WeightPublisher(config.weights, *ends, config.rollout.tensor_parallel)
        await self.weights.start()

    def matches(self, config: RunConfig, pad_token_id: int, verifier_names: Sequence[str]) -> bool:
        return self._built_from == _built_from(config, pad_token_id, verifier_names)

    async def restart(self, config: RunConfig) -> None:
        """Make them what they were at the start, for a run of ``config``, which they must match."""
        async with self.rollout.engines_asleep():
            await self.learners.rebuild(config)
        await self.weights.publish(0)

    async def close(self) -> None:
        await asyncio.gather(
            self.rollout.close(),
            self.verifiers.close(),
            self.learners.close(),
            return_exceptions=True,
        )
        self._placement.release()


def _built_from(config: RunConfig, pad_token_id: int, verifier_names: Sequence[str]) -> Any:
    """What the processes depend on."""
    return (
        config.model,
        replace(config.rollout, **_SAMPLING),
        config.verifier,
        config.weights,
        config.cluster,
        config.learner.ranks,
        config.telemetry.worker_logs,
        pad_token_id,
        tuple(verifier_names),
    )
