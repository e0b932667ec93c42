"""The training loop."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rlvr.algorithm.advantages import ADVANTAGES
from rlvr.config import RunConfig
from rlvr.loop.actors import Actors
from rlvr.loop.answers import AnswerFinder
from rlvr.loop.evaluation import Evaluation
from rlvr.loop.groups import GroupSource, RolloutBatch
from rlvr.loop.prober import Prober
from rlvr.loop.state import RunState
from rlvr.telemetry.run_log import Telemetry
from rlvr.telemetry.timing import Stopwatch
from rlvr.telemetry.tokens import token_rows
from rlvr.types import Answers


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
        finder: AnswerFinder | None = None,
        prober: Prober | None = None,
    ) -> None:
        self.advantage = ADVANTAGES.build(config.advantage, "advantage")
        self.groups = groups
        self.rollout = actors.rollout
        self.learners = actors.learners
        self.weights = actors.weights
        self.evaluation = evaluation
        self.state = state
        self.telemetry = telemetry
        self.finder = finder
        self.prober = prober
        self.watch = Stopwatch()
        self.seconds = 0.0
        self.tokens = 0

    async def run(self) -> None:
        """Train from the state's step to the last one."""
        await self.evaluation.at_start(self.state.step)
        self.watch.lap()
        async for batch in self.batches():
            advantages, answers = self.advantages(batch), self.answers(batch)
            with self.watch.stage("credit"):
                scores = await self.token_scores(batch, answers)
            async with self.rollout.engines_asleep():
                with self.watch.stage("score"):
                    await self.learners.load(batch.groups, advantages, answers, scores)
                    metrics = await self.learners.score()
                with self.watch.stage("credit"):
                    metrics |= await self.learners.assign_credit()
                with self.watch.stage("update"):
                    metrics |= await self.learners.update()
            with self.watch.stage("publish"):
                await self.weights.publish(batch.step + 1)
            self.state.advance(batch)
            await self.log(batch, advantages, metrics)
            await self.state.checkpoint_if_due()
            await self.evaluation.if_due(self.state.step)
            self.watch.lap()  # checkpoints and evaluations are no part of a step's time
        await self.state.save_model()
        await self.evaluation.at_end(self.state.step)

    async def batches(self) -> AsyncIterator[RolloutBatch]:
        """The source's batches; the time spent waiting for them is the rollout's."""
        source = self.groups.batches(self.state.step)
        while True:
            with self.watch.stage("rollout"):
                batch = await anext(source, None)
            if batch is None:
                return
            yield batch

    def answers(self, batch: RolloutBatch) -> Answers | None:
        """Where the final answers lie, if the credit method asks."""
        return self.finder.find(batch.groups) if self.finder is not None else None

    async def token_scores(
        self, batch: RolloutBatch, answers: Answers | None
    ) -> Float[Tensor, "N"] | None:
        """What the rollout workers say of the response tokens, if the credit method asks."""
        if self.prober is None:
            return None
        return await self.prober.token_scores(batch.step, batch.groups, answers)

    async def log(
        self, batch: RolloutBatch, advantages: np.ndarray, metrics: dict[str, float]
    ) -> None:
        """Hand the step to the telemetry."""
        timings = self.watch.lap()
        self.seconds += timings["time/step_s"]
        self.tokens += sum(len(r.token_ids) for g in batch.groups for r in g.responses)
        metrics["groups/discarded"] = batch.discarded
        texts = [text for group in batch.texts for text in group]
        extremes = await self.learners.extreme_tokens()
        tokens = token_rows(extremes, batch.groups, advantages, self.groups.decode)
        await self.telemetry.step(
            batch.step + 1, batch.groups, advantages, texts, metrics, timings, tokens
        )

    def summary(self) -> dict[str, float | int]:
        """What the run came to."""
        return {
            **self.evaluation.before_and_after(),
            "train_seconds": self.seconds,
            "steps": self.state.step,
            "tokens_per_second": self.tokens / self.seconds if self.seconds else 0.0,
        }

    def advantages(self, batch: RolloutBatch) -> np.ndarray:
        """A_i of every response, float64 [S], in the order of the groups."""
        reward = torch.tensor(np.concatenate([g.rewards for g in batch.groups]))
        sizes = torch.tensor([len(g.responses) for g in batch.groups])
        group_id = torch.repeat_interleave(torch.arange(len(batch.groups)), sizes)
        return self.advantage(reward, group_id).numpy()
