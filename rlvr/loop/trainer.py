"""The training loop."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

import numpy as np

from rlvr.algorithm.advantages import ADVANTAGES
from rlvr.algorithm.strength import STRENGTHS
from rlvr.config import RunConfig
from rlvr.loop.actors import Actors
from rlvr.loop.bad_updates import BadUpdates
from rlvr.loop.batch import RolloutBatch
from rlvr.loop.credit_driver import CreditDriver
from rlvr.loop.evaluation import Evaluation
from rlvr.loop.groups import GroupSource
from rlvr.loop.ledger import entries
from rlvr.loop.state import RunState
from rlvr.telemetry.run_log import Telemetry
from rlvr.telemetry.timing import Stopwatch
from rlvr.telemetry.tokens import Coefficients, TokenLog


class Trainer:
    """One policy, step by step: sample, verify, score, assign credit, update, publish."""

    def __init__(
        self,
        config: RunConfig,
        groups: GroupSource,
        credit: CreditDriver,
        actors: Actors,
        evaluation: Evaluation,
        state: RunState,
        telemetry: Telemetry,
    ) -> None:
        self.config = config
        self.advantage = ADVANTAGES.build(config.advantage, "advantage")
        self.strength = STRENGTHS.build(config.strength, "strength")
        self.groups = groups
        self.credit = credit
        self.actors = actors
        self.learners = actors.learners
        self.evaluation = evaluation
        self.state = state
        self.telemetry = telemetry
        self.tokens = TokenLog(groups.decode) if config.telemetry.log_responses else None
        self.bad_updates = BadUpdates(config.train, self.learners)
        self.watch = Stopwatch()

    async def run(self) -> bool:
        """Train to the end, or False at a checkpoint from which more ranks can go on."""
        self.state.measured |= await self.evaluation.at_start(self.state.step)
        self.watch.lap()
        async with aclosing(self.batches()) as batches:
            async for batch in batches:
                await self.step(batch)
                saved = await self.state.checkpoint_if_due()
                self.state.measured |= await self.evaluation.if_due(self.state.step)
                if saved and self.actors.may_grow(self.config):
                    await self.state.written()
                    return False
                self.watch.lap()  # checkpoints and evaluations are no part of a step's time
        await self.state.written()
        await self.state.save_model()
        await self.evaluation.at_end(self.state.step)
        return True

    async def step(self, batch: RolloutBatch) -> None:
        advantages = batch.advantages(self.advantage)
        with self.watch.stage("credit"):
            inputs = await self.credit.prepare(batch)
        with self.watch.stage("publish"):
            await self.actors.learners_turn()
        with self.watch.stage("score"):
            await self.learners.load(batch.groups, advantages, inputs)
            metrics = await self.learners.score()
        with self.watch.stage("credit"):
            wanted = self.tokens is not None
            strength = self.strength(batch.step + 1, self.state.measured)
            report, coefficients = await self.learners.assign_credit(wanted, strength)
            metrics |= report | {"credit/strength": strength}
        with self.watch.stage("update"):
            metrics |= await self.learners.update()
        await self.bad_updates.look(batch, advantages, metrics)
        with self.watch.stage("publish"):
            await self.actors.engines_turn(batch.step + 1)
        self.state.advance(batch)
        await self.log(batch, advantages, metrics, coefficients)

    async def batches(self) -> AsyncGenerator[RolloutBatch, None]:
        """The source's batches; the time spent waiting for them is the rollout's."""
        async with aclosing(self.groups.batches(self.state.step)) as source:
            while True:
                with self.watch.stage("rollout"):
                    batch = await anext(source, None)
                if batch is None:
                    return
                yield batch

    async def log(
        self,
        batch: RolloutBatch,
        advantages: np.ndarray,
        metrics: dict[str, float],
        coefficients: Mapping[str, Coefficients],
    ) -> None:
        timings = self.watch.lap()
        metrics["groups/discarded"] = len(batch.discarded)
        metrics |= self.groups.curriculum()
        metrics["rollout/workers"] = len(self.actors.rollout.engines)
        metrics["rollout/replaced"] = self.actors.rollout.replaced
        self.telemetry.trained_on(entries(batch, self.groups.turn))
        tokens = None
        if self.tokens is not None:
            tokens = self.tokens.of(batch.groups, advantages, coefficients)
        step = batch.step + 1
        await self.telemetry.step(step, batch.groups, advantages, metrics, timings, tokens)
