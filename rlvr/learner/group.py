"""The learner ranks as one, seen from the driver."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
from jaxtyping import Float
from ray.actor import ActorHandle
from torch import Tensor

from rlvr.algorithm.metrics import summed, values
from rlvr.config import RunConfig
from rlvr.errors import LearnerError
from rlvr.learner.batching import rank_batches
from rlvr.learner.extremes import merged
from rlvr.learner.worker import LearnerWorker
from rlvr.types import Answers, Group, RankedTokens


class LearnerGroup:
    """Calls all ranks together; the first error of any of them is raised at once.

    The other ranks may then be waiting for the failed one in a collective, so after an error
    the group is of no further use.
    """

    def __init__(
        self, config: RunConfig, pad_token_id: int, options: Sequence[dict[str, Any]]
    ) -> None:
        self._config = config
        actor_class: Any = ray.remote(LearnerWorker)
        self.ranks: list[ActorHandle] = [
            actor_class.options(**o).remote(config, rank, pad_token_id)
            for rank, o in enumerate(options)
        ]

    async def start(self) -> None:
        """Form the process group and load the model on every rank."""
        limit = self._config.learner.init_timeout_s
        [(address, port)] = await self._call("address", timeout_s=limit, ranks=self.ranks[:1])
        await self._call("start", address, port, timeout_s=limit)

    async def rebuild(self, config: RunConfig) -> None:
        """Load the model anew on every rank, for another run of as many ranks."""
        self._config = config
        await self._call("rebuild", config, timeout_s=config.learner.init_timeout_s)

    async def load(
        self,
        groups: Sequence[Group],
        advantages: np.ndarray,
        answers: Answers | None = None,
        token_scores: Float[Tensor, "N"] | None = None,
    ) -> None:
        """Share a rollout batch out over the ranks; ``advantages`` is [S], in sample order."""
        train = self._config.train
        batches = rank_batches(
            groups,
            advantages,
            ranks=len(self.ranks),
            groups_per_mini_batch=train.prompts_per_mini_batch or len(groups),
            answers=answers,
            token_scores=token_scores,
        )
        limit = self._config.learner.step_timeout_s
        await self._gather(
            [r.load.remote(b) for r, b in zip(self.ranks, batches, strict=True)], limit
        )

    async def score(self) -> dict[str, float]:
        """Old log-probabilities and features; see ``LearnerRank.score``."""
        return values(summed(await self._stage("score")))

    async def assign_credit(self) -> dict[str, float]:
        """Token coefficients; see ``LearnerRank.assign_credit``."""
        return values(summed(await self._stage("assign_credit")))

    async def extreme_tokens(self, count: int = 10) -> RankedTokens:
        """The ``count`` response tokens with the largest and the smallest coefficients."""
        return merged(await self._stage("extreme_tokens", count), count)

    async def update(self) -> dict[str, float]:
        """The optimizer steps; see ``LearnerRank.update``."""
        return values(summed(await self._stage("update")))

    async def save(self, checkpoint: str | None = None, model: str | None = None) -> None:
        """Write a resumable checkpoint and/or a Hugging Face folder."""
        if checkpoint:
            await self._stage("save_checkpoint", checkpoint)
        if model:
            await self._stage("save_model", model)

    async def restore(self, checkpoint: str) -> None:
        """Go on from ``save``."""
        await self._stage("load_checkpoint", checkpoint)

    async def close(self) -> None:
        """End the ranks: in step where they still can, by force where not."""
        try:
            await self._call("close", timeout_s=5.0)
        except LearnerError:
            pass
        for rank in self.ranks:
            ray.kill(rank)

    async def _stage(self, method: str, *arguments: Any) -> list[Any]:
        limit = self._config.learner.step_timeout_s
        return await self._call(method, *arguments, timeout_s=limit)

    async def _call(
        self,
        method: str,
        *arguments: Any,
        timeout_s: float,
        ranks: Sequence[ActorHandle] | None = None,
    ) -> list[Any]:
        called = [getattr(r, method).remote(*arguments) for r in ranks or self.ranks]
        return await self._gather(called, timeout_s, method)

    async def _gather(
        self, references: Sequence[Any], timeout_s: float, method: str = "load"
    ) -> list[Any]:
        try:
            return await asyncio.wait_for(asyncio.gather(*references), timeout_s)
        except TimeoutError:
            raise LearnerError(
                f"learner: '{method}' did not end within {timeout_s:.0f} s "
                "(learner.step_timeout_s, at the start learner.init_timeout_s)"
            ) from None
        except ray.exceptions.RayError as error:
            raise LearnerError(f"learner: '{method}' failed:\n{error}") from error
