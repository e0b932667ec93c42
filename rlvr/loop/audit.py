"""Whether credit lies where the outcome is decided: sampled, credited, and continued to see."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rlvr.algorithm.advantages import ADVANTAGES
from rlvr.algorithm.credit import Prefix
from rlvr.algorithm.credit.shadow import room
from rlvr.config import RunConfig
from rlvr.errors import DataError
from rlvr.evaluation.audit_batch import AuditBatch, Values
from rlvr.evaluation.audit_plan import Audited
from rlvr.evaluation.effects import Effects
from rlvr.loop.actors import Actors
from rlvr.loop.batch import RolloutBatch
from rlvr.loop.continuations import Continuations
from rlvr.loop.credit_driver import CreditDriver
from rlvr.loop.groups import GroupSource
from rlvr.types import Group, Prompt

SEED_STEP = -2  # an audit draws from its own seeds, the same ones each time

_ROUNDS = 8  # of sampling, until there are enough groups with spread
_PART_S = 20.0  # values are kept, and progress told, so often


@dataclass
class Audit:
    """Audits the policy version that the engines serve and the learner has.

    It changes nothing of a run but the time that it takes.
    """

    config: RunConfig
    prompts: Sequence[Prompt]
    groups: GroupSource
    credit: CreditDriver
    continuations: Continuations
    actors: Actors

    @property
    def in_use(self) -> str:
        """What the method in use is called among others."""
        name = str(self.config.credit["name"])
        return f"{name} (in use)" if name in self.credit.methods else name

    async def effects(self, version: int, continuations: int) -> tuple[AuditBatch, Effects]:
        """Of at most so many ``continuations`` from one batch of responses."""
        batch = await self.batch(version)
        audited = self.planned(batch, continuations)
        values = await self.values(batch, audited, version)
        return batch, batch.effects(audited, values)

    def planned(self, batch: AuditBatch, continuations: int) -> list[Audited]:
        """What so many continuations can tell."""
        own = self.config.audit
        return batch.planned(own.positions, continuations // own.samples)

    async def batch(self, version: int) -> AuditBatch:
        """Sample groups with spread, as many as a step has, and give them credit."""
        groups = await self._with_spread(self.config.train.prompts_per_step)
        drawn = RolloutBatch(version, groups, {})
        advantages = drawn.advantages(ADVANTAGES.build(self.config.advantage, "advantage"))
        inputs = await self.credit.prepare(drawn)
        learners = self.actors.learners
        await self.actors.learners_turn()
        await learners.load(groups, advantages, inputs)
        await learners.score()
        report, found = await learners.try_credit()
        await self.actors.engines_turn(version)
        seconds = {label or self.in_use: report[f"{room(label)}/assign_s"] for label in found}
        coefficients = {label or self.in_use: c for label, c in found.items()}
        return AuditBatch(groups, advantages, coefficients, seconds)

    async def values(
        self,
        batch: AuditBatch,
        audited: Sequence[Audited],
        version: int,
        known: Values | None = None,
        keep: Callable[[Values], None] = lambda values: None,
    ) -> Values:
        """Continue every prefix that is not ``known``; ``keep`` gets the new values in parts."""
        values = dict(known or {})
        wanted = [
            (own.response, length)
            for own in audited
            for length in own.lengths
            if length < len(batch.samples[own.response].response.token_ids)
        ]
        missing = [key for key in wanted if key not in values]
        prefixes = [
            Prefix(batch.prompts[r], batch.samples[r].response.token_ids[:length].tolist())
            for r, length in missing
        ]
        kept = _Kept(keep, len(wanted), len(wanted) - len(missing))

        def finish(place: int, rewards: np.ndarray) -> None:
            values[missing[place]] = rewards
            kept.add(missing[place], rewards)

        try:
            await self.continuations.each(prefixes, self.config.audit.samples, version, finish)
        finally:
            kept.tell()
        return values

    async def _with_spread(self, wanted: int) -> list[Group]:
        """The first so many groups with spread, of the prompts in an order of the run's seed."""
        order = np.random.default_rng(self.config.train.seed).permutation(len(self.prompts))
        found: list[Group] = []
        for _ in range(_ROUNDS):
            if len(found) >= wanted or not len(order):
                break
            count = max(8, 2 * (wanted - len(found)))
            prompts = [self.prompts[i] for i in order[:count]]
            order = order[count:]
            size = self.config.rollout.group_size
            sampled = await self.groups.sample(prompts, size, self.groups.sampling, SEED_STEP)
            found += [group for group in sampled if group.has_spread]
        if not found:
            raise DataError(
                "nothing can be audited: no prompt has two responses with different rewards"
            )
        return found[:wanted]


class _Kept:
    """Values as they come, handed on every now and then."""

    def __init__(self, keep: Callable[[Values], None], total: int, done: int) -> None:
        self._keep, self._total, self._done = keep, total, done
        self._waiting: dict[tuple[int, int], np.ndarray] = {}
        self._last = time.monotonic()

    def add(self, key: tuple[int, int], rewards: np.ndarray) -> None:
        self._waiting[key] = rewards
        if time.monotonic() - self._last > _PART_S:
            self.tell()

    def tell(self) -> None:
        if self._waiting:
            self._keep(self._waiting)
            self._done += len(self._waiting)
            print(f"audit: {self._done:,} of {self._total:,} prefixes", flush=True)
        self._waiting, self._last = {}, time.monotonic()
