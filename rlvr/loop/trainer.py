"""The training loop."""

from __future__ import annotations

import numpy as np
import torch

from rlvr.algorithm.advantages import ADVANTAGES
from rlvr.config import RunConfig
from rlvr.loop.actors import Actors
from rlvr.loop.evaluation import Evaluation
from rlvr.loop.groups import GroupSource, RolloutBatch
from rlvr.loop.state import RunState
from rlvr.telemetry.run_log import Telemetry


class Trainer:
    """One policy, step by step: sample, verify, score, assign credit, update, publish."""

    def __init__(
        self,
        config: RunConfig,
        groups: GroupSource,
        actors: Actors,
        evaluation: Evaluation,
        state: RunState,
        telemetry: Telemetry,
    ) -> None:
        self.advantage = ADVANTAGES.build(config.advantage, "advantage")
        self.groups = groups
        self.rollout = actors.rollout
        self.learners = actors.learners
        self.weights = actors.weights
        self.evaluation = evaluation
        self.state = state
        self.telemetry = telemetry

    async def run(self) -> None:
        """Train from the state's step to the last one."""
        stage = self.telemetry.watch.stage
        await self.evaluation.at_start(self.state.step)
        async for batch in self.telemetry.timed("rollout", self.groups.batches(self.state.step)):
            advantages = self.advantages(batch)
            metrics: dict[str, float] = {}
            async with self.rollout.memory_lent():
                with stage("score"):
                    await self.learners.load(batch.groups, advantages)
                    metrics |= await self.learners.score()
                with stage("credit"):
                    metrics |= await self.learners.assign_credit()
                with stage("update"):
                    metrics |= await self.learners.update()
            with stage("publish"):
                await self.weights.publish(batch.step + 1)
            self.state.advance(batch)
            await self.telemetry.step(batch, advantages, metrics)
            await self.state.checkpoint_if_due()
            await self.evaluation.if_due(self.state.step)
        await self.evaluation.at_end(self.state.step)
        await self.state.finish()

    def advantages(self, batch: RolloutBatch) -> np.ndarray:
        """A_i of every response, float64 [S], in the order of the groups."""
        reward = torch.tensor(np.concatenate([g.rewards for g in batch.groups]))
        sizes = torch.tensor([len(g.responses) for g in batch.groups])
        group_id = torch.repeat_interleave(torch.arange(len(batch.groups)), sizes)
        return self.advantage(reward, group_id).numpy()
