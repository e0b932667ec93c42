"""How much a step has to sample and to learn from."""

from dataclasses import dataclass
from functools import cache, reduce
from operator import or_

import numpy as np

from rlvr.algorithm.credit import CreditAssigner, Needs
from rlvr.algorithm.credit.shadow import credit_methods
from rlvr.algorithm.objectives import OBJECTIVES
from rlvr.config import RunConfig

_SPREAD = 0.8  # deviation of ln(length): the long tail that reasoning has
_QUANTILES = 512


@dataclass(frozen=True)
class Assumptions:
    """What no configuration says. Lengths in tokens."""

    response: float | None = None  # mean; default: a fifth of the most allowed
    prompt: int = 256  # mean
    active: float = 0.6  # share of the groups whose rewards differ


@dataclass(frozen=True)
class Workload:
    """A rollout batch. ``lengths`` are quantiles of its responses' lengths."""

    sampled_groups: float
    groups: float  # that come to the learner
    group_size: int
    active: float  # share of these that has a gradient
    prompt: int
    lengths: tuple[float, ...]
    mini_batches: int
    epochs: int
    credit: tuple[CreditAssigner, ...]  # the method in use, and its shadows
    reference: bool

    @property
    def response(self) -> float:
        """Mean tokens of a response."""
        return float(np.mean(self.lengths))

    @property
    def responses(self) -> float:
        """Response tokens of all groups that come to the learner."""
        return self.groups * self.group_size * self.response

    @property
    def tokens(self) -> float:
        """Tokens of the same, every prompt once for its group."""
        return self.responses + self.groups * self.prompt

    @property
    def pairs(self) -> float:
        """Of a query and a key that it attends to, in all responses."""
        lengths = np.array(self.lengths)
        return self.groups * self.group_size * float(np.mean(lengths * (lengths / 2 + self.prompt)))

    @property
    def needs(self) -> Needs:
        """What the scoring pass keeps; hidden states too, where methods are compared."""
        own = reduce(or_, (method.needs for method in self.credit))
        return own | Needs.HIDDEN if len(self.credit) > 1 else own

    @property
    def single(self) -> list[CreditAssigner]:
        """The methods, of a product each that it is made of."""
        return [one for m in self.credit for one in getattr(m, "members", {"": m}).values()]

    @property
    def scored(self) -> float:
        """Share of the tokens that the scoring pass computes."""
        if Needs.EVERY_TOKEN in self.needs:
            return 1.0
        kept = self.needs & (Needs.STATISTICS | Needs.HIDDEN)
        return self.active if kept else self.active * (1 - 1 / self.mini_batches)


def workload(config: RunConfig, assumed: Assumptions) -> Workload:
    train, rollout = config.train, config.rollout
    most = rollout.max_response_tokens
    groups, mini = train.prompts_per_step, train.prompts_per_mini_batch
    sampled, active = float(groups), assumed.active
    if train.dynamic_sampling:
        sampled, active = groups / active, 1.0
    return Workload(
        sampled_groups=sampled,
        groups=groups,
        group_size=rollout.group_size,
        active=active,
        prompt=min(assumed.prompt, config.data.max_prompt_tokens),
        lengths=_lengths(min(assumed.response or most / 5, most), most),
        mini_batches=groups // (mini or groups),
        epochs=train.epochs_per_step,
        credit=tuple(credit_methods(config).values()),
        reference=bool(OBJECTIVES.build(config.objective, "objective").needs_reference),
    )


@cache
def _lengths(mean: float, most: int) -> tuple[float, ...]:
    """Quantiles of a lognormal distribution that ends at ``most``, with this mean."""
    if mean >= most:
        return (float(most),) * _QUANTILES
    normal = np.sort(np.random.default_rng(0).standard_normal(64 * _QUANTILES))[32::64]
    low, high = 0.0, 4 * np.log(most + 1.0)
    for _ in range(60):
        middle = (low + high) / 2
        if np.exp(middle + _SPREAD * normal).clip(1, most).mean() < mean:
            low = middle
        else:
            high = middle
    return tuple(np.exp(low + _SPREAD * normal).clip(1, most))
