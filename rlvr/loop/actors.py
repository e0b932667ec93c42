"""The processes of a run: started together, stopped together."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Self

from ray.actor import ActorHandle

from rlvr.config import Publish, RunConfig
from rlvr.errors import EngineError
from rlvr.learner.group import LearnerGroup
from rlvr.loop.cluster import connect, reserve
from rlvr.loop.placement import Placement
from rlvr.rollout.pool import RolloutPool
from rlvr.telemetry.progress import phase
from rlvr.verify.workers.pool import VerifierPool
from rlvr.verify.workers.work import Work
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
        work: Work,
    ) -> None:
        self._built_from = _built_from(config, pad_token_id)
        self._placement = placement
        self._pad_token_id = pad_token_id
        self._in_turns = config.cluster.placement == "colocated"
        self._learning = False  # whether it is the learners' turn
        self._version = 0  # that the engines serve
        self.rollout = RolloutPool(config, placement.engines, self._introduce)
        self.verifiers = VerifierPool(work, placement.verifiers)
        self.learners = LearnerGroup(config, pad_token_id, placement.learners)
        self.weights: WeightPublisher

    @classmethod
    async def start(cls, config: RunConfig, pad_token_id: int, work: Work) -> Self:
        """Start all kinds; an error leaves none behind. It is then the learners' turn."""
        with phase("starting Ray"):
            connect(config)
        # Ray takes SIGTERM for itself when it connects; here it shall end a run as Ctrl-C does.
        interrupt = partial(os.kill, os.getpid(), signal.SIGINT)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, interrupt)
        actors = cls(config, await reserve(config), pad_token_id, work)
        try:
            await actors._start(config)
        except BaseException:
            await actors.close()
            raise
        return actors

    async def _start(self, config: RunConfig) -> None:
        await self._take_turn()
        with phase(
            f"starting {config.rollout.workers} vLLM, {config.learner.ranks} DeepSpeed and "
            f"{config.verifier.actors} verifier workers"
        ):
            async with asyncio.TaskGroup() as starting:
                starting.create_task(self.verifiers.start())
                if self._in_turns:
                    starting.create_task(self._start_in_turns(config.rollout.tensor_parallel))
                else:
                    starting.create_task(self.rollout.start())
                    starting.create_task(self.learners.start())
        self.weights = self._publisher(config)

    def _publisher(self, config: RunConfig) -> WeightPublisher:
        gpus_per_engine = config.rollout.tensor_parallel
        return WeightPublisher(config.weights, self.learners.workers, gpus_per_engine)

    async def _take_turn(self) -> None:
        await self.learners.turn.acquire()
        self._learning = True

    async def _start_in_turns(self, tensor_parallel: int) -> None:
        """Engines first: they claim their share of a GPU, and want to find it free."""
        gpus = await self.learners.gpus()
        starts = range(0, len(gpus), tensor_parallel)
        await self.rollout.start([gpus[i : i + tensor_parallel] for i in starts])
        await self.rollout.sleep()
        await self.learners.start()

    def by_name(self) -> dict[str, ActorHandle]:
        """Every worker, those included that have come in place of others."""
        kinds = {
            "learner rank": self.learners.workers,
            "rollout worker": self.rollout.actors,
            "verifier actor": self.verifiers.actors,
        }
        return {f"{kind} {i}": actor for kind, own in kinds.items() for i, actor in enumerate(own)}

    async def learners_turn(self) -> None:
        """No engine is given weights, and colocated they sleep, until ``engines_turn``."""
        await self._take_turn()
        self.verifiers.spread()  # they have the least to do now
        if self._in_turns:
            await self.rollout.sleep()
            await self.learners.wake_up()

    async def engines_turn(self, version: int) -> None:
        """Every engine serves ``version``, but for those that are being replaced.

        Colocated, this is how they get the GPUs: the learners keep the weights until they are
        published, and the KV cache takes the room of the publish.
        """
        if self._in_turns:
            await self.learners.sleep()
            await self.rollout.wake_up("weights")
        self._version = version
        while engines := self.rollout.engines:
            try:
                await self._publish(engines)
                break
            except EngineError as error:
                for name, why in error.failed.items():
                    self.rollout.replace(engines[name], why)
        if self._in_turns:
            await self.rollout.wake_up("kv_cache")
        self._learning = False
        self.learners.turn.release()

    async def _introduce(
        self, name: str, engine: ActorHandle, start: Callable[[], Awaitable[None]]
    ) -> None:
        """Start a replacement and publish the engines' version to it alone.

        That is as soon as the ranks are not at work. Colocated, only then is there room for it.
        """
        if not self._in_turns:
            await start()
        async with self.learners.turn:
            if self._in_turns:
                await start()
            await self._publish({name: engine})

    async def _publish(self, engines: Mapping[str, ActorHandle]) -> None:
        if engines != self.weights.engines:
            await self.weights.start(engines)
        await self.weights.publish(self._version)

    def matches(self, config: RunConfig, pad_token_id: int) -> bool:
        """Whether engines and ranks are those of a run of ``config``."""
        return self._built_from == _built_from(config, pad_token_id)

    async def give_work(self, work: Work) -> None:
        """Have verifiers for ``work``: others, if it is not what these do."""
        if work == self.verifiers.work:
            return
        await self.verifiers.close()
        self.verifiers = VerifierPool(work, self._placement.verifiers)
        with phase("starting other verifier workers"):
            await self.verifiers.start()

    async def restart(self, config: RunConfig) -> None:
        """Make them what they were at the start, for a run of ``config``, which they must match."""
        await self.learners_turn()
        self.rollout.forgive()
        await self.learners.rebuild(config)

    async def replace_learners(self, config: RunConfig) -> None:
        """Start all ranks anew, on the machines that are left; it is then the learners' turn.

        Colocated, whose turn it was nobody knows: engines start anew as well.
        """
        turn = self.learners.turn
        await self.learners.close()
        ranks, engines = await self._placement.settled(config)
        if self._in_turns:
            await self.rollout.close()
            self.rollout = RolloutPool(config, engines, self._introduce)
            turn, self._learning = asyncio.Lock(), False
        self.learners = LearnerGroup(config, self._pad_token_id, ranks, turn)
        if not self._learning:  # else the turn was theirs when it happened
            await self._take_turn()
        with phase(f"starting {len(ranks)} DeepSpeed workers"):
            if self._in_turns:
                await self._start_in_turns(config.rollout.tensor_parallel)
            else:
                self.rollout.revive()
                await self.learners.start()
        self.weights = self._publisher(config)

    def may_grow(self, config: RunConfig) -> bool:
        """Whether there is a machine for more ranks than there are."""
        here, most = len(self.learners.workers), len(self._placement.learners)
        return here < most and here < len(self._placement.left(config)[0])

    async def close(self) -> None:
        await asyncio.gather(
            self.rollout.close(),
            self.verifiers.close(),
            self.learners.close(),
            return_exceptions=True,
        )
        self._placement.release()


def _built_from(config: RunConfig, pad_token_id: int) -> Any:
    """What engines and ranks depend on."""
    return (
        config.model,
        replace(config.rollout, **_SAMPLING),
        config.weights,
        config.learner.lora if config.learner.lora.publish == Publish.adapter else None,
        config.cluster,
        config.learner.ranks,
        # Engines have fewer threads while the learner works at the same time.
        config.cluster.torch_threads is None and config.train.max_staleness > 0,
        config.telemetry.worker_logs,
        pad_token_id,
    )
