"""The processes of a run: started together, stopped together."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from rlvr.config import RunConfig
from rlvr.learner.group import LearnerGroup
from rlvr.loop.cluster import connect, reserve
from rlvr.rollout.pool import RolloutPool
from rlvr.telemetry.progress import Phase
from rlvr.verify.pool import VerifierPool
from rlvr.weights.publish import WeightPublisher


@dataclass(frozen=True)
class Actors:
    """Everything that runs in other processes."""

    rollout: RolloutPool
    verifiers: VerifierPool
    learners: LearnerGroup
    weights: WeightPublisher


@asynccontextmanager
async def start_actors(
    config: RunConfig, pad_token_id: int, verifier_names: Sequence[str]
) -> AsyncIterator[Actors]:
    """Start the actors, all kinds at once, and leave none behind."""
    with Phase("starting Ray"):
        connect(config)
    # Ray takes SIGTERM for itself when it connects; here it shall end a run as Ctrl-C does.
    interrupt = partial(os.kill, os.getpid(), signal.SIGINT)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, interrupt)
    placement = await reserve(config)
    gpu = config.cluster.gpus > 0
    backend = config.weights.backend
    rollout = RolloutPool(
        config.model, config.rollout, backend=backend, gpu=gpu, options=placement.engines
    )
    verifiers = VerifierPool(config.verifier, placement.verifiers, verifiers=verifier_names)
    learners = LearnerGroup(config, pad_token_id, placement.learners)
    try:
        with Phase(
            f"starting {config.rollout.workers} vLLM, {config.learner.ranks} DeepSpeed and "
            f"{config.verifier.actors} verifier workers"
        ):
            async with asyncio.TaskGroup() as starting:
                starting.create_task(rollout.start())
                starting.create_task(learners.start())
                starting.create_task(verifiers.start())
        weights = WeightPublisher(
            config.weights, backend, learners.ranks, rollout.actors, config.rollout.tensor_parallel
        )
        await weights.start()
        yield Actors(rollout, verifiers, learners, weights)
    finally:
        await asyncio.gather(
            rollout.close(), verifiers.close(), learners.close(), return_exceptions=True
        )
        placement.release()
