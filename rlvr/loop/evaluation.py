"""Accuracy on held-out prompts, with the engines that training uses."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rlvr.config import RunConfig
from rlvr.loop.groups import GroupSource
from rlvr.rollout.request import Sampling
from rlvr.telemetry.run_log import Telemetry
from rlvr.types import Group, Outcome, Prompt

_SEED_STEP = -1  # evaluation draws from its own seeds, the same ones each time


class Evaluation:
    """Greedy accuracy and avg@k of ``data.eval``; its results go to the telemetry."""

    def __init__(
        self,
        config: RunConfig,
        prompts: Sequence[Prompt],
        groups: GroupSource,
        telemetry: Telemetry,
        stop_token_ids: Sequence[int],
    ) -> None:
        self._config = config.evaluation
        self._prompts = prompts[: config.evaluation.limit]
        self._groups = groups
        self._telemetry = telemetry
        self._sampling = Sampling(
            temperature=config.evaluation.temperature,
            top_p=config.evaluation.top_p,
            top_k=0,
            max_tokens=config.evaluation.max_response_tokens or config.rollout.max_response_tokens,
            stop_token_ids=tuple(stop_token_ids),
        )

    async def at_start(self, step: int) -> None:
        """Before the first step, if asked for."""
        if self._config.at_start and step == 0:
            await self.run(step)

    async def if_due(self, step: int) -> None:
        if self._is_due(step):
            await self.run(step)

    async def at_end(self, step: int) -> None:
        """After the last step, unless that one was due anyway."""
        if self._config.at_end and not self._is_due(step):
            await self.run(step)

    def _is_due(self, step: int) -> bool:
        return self._config.every > 0 and step % self._config.every == 0

    async def run(self, step: int) -> None:
        """Evaluate now: greedy decoding and k samples a prompt, as configured."""
        if self._prompts and self._config.greedy:
            greedy = replace(self._sampling, temperature=0.0, top_p=1.0)
            await self._measure("greedy", 1, greedy, step)
        if self._prompts and (k := self._config.samples):
            await self._measure(f"avg_at_{k}", k, self._sampling, step)

    async def _measure(self, name: str, samples: int, sampling: Sampling, step: int) -> None:
        """Accuracy overall and, where there are several, by source."""
        groups = await self._groups.sample(self._prompts, samples, sampling, seed_step=_SEED_STEP)
        results = {"accuracy": _accuracy(groups)}
        sources = sorted({g.prompt.source for g in groups})
        for source in sources if len(sources) > 1 else []:
            own = [g for g in groups if g.prompt.source == source]
            results[f"{source}/accuracy"] = _accuracy(own)
        await self._telemetry.evaluation(step, name, results, groups)


def _accuracy(groups: Sequence[Group]) -> float:
    """Share of correct responses: the mean over prompts of the mean over their samples."""
    correct = [[s.verdict.outcome is Outcome.CORRECT for s in g.samples] for g in groups]
    return float(np.mean([np.mean(own) for own in correct]))
