"""Other layouts of the same run: the fastest that fit, or the least changes that make it fit."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, get_type_hints

from rlvr.config import LearnerConfig, RunConfig
from rlvr.errors import ConfigError
from rlvr.loop.resolve import resolved
from rlvr.loop.validate import validated
from rlvr.plan.plan import Plan, plan_of

Changes = dict[str, Any]  # values by key


@dataclass(frozen=True)
class Layout:
    """A plan, and what sets it apart from the configuration asked about."""

    changes: Changes
    plan: Plan

    def overrides(self) -> str:
        """To paste behind the command."""
        return " ".join(f"{key}={_written(value)}" for key, value in self.changes.items())


def fastest(config: RunConfig, plan: Plan, most: int) -> list[Layout]:
    """Layouts of ``config`` (not resolved) that fit, beside its ``plan``, fastest first."""
    return _distinct(config, plan, most, lambda x: (_hundredths(x.plan.step_s), len(x.changes)))


def remedies(config: RunConfig, plan: Plan, most: int) -> list[Layout]:
    """What to change so that it fits: the fewest keys first, then the fastest.

    If nothing does on this cluster, on one of two, four or eight times its nodes.
    """
    for times in (1, 2, 4, 8):
        cluster = replace(config.cluster, nodes=config.cluster.nodes * times)
        larger = replace(config, cluster=cluster)
        found = _distinct(larger, plan, most, lambda x: (len(x.changes), x.plan.step_s))
        if found:
            size = {"cluster": f"{cluster.nodes}x{cluster.gpus_per_node}"} if times > 1 else {}
            return [Layout({**size, **x.changes}, x.plan) for x in found]
    return []


def _distinct(
    config: RunConfig, plan: Plan, most: int, rank: Callable[[Layout], tuple[float, ...]]
) -> list[Layout]:
    """The first of those that fit and are valid, without changes that gain nothing."""
    asked, fitting = resolved(config), []
    for values in _candidates(asked):
        candidate = plan_of(resolved(changed(config, values)), plan.gpu, plan.work)
        if candidate.memory.fits:
            changes = {k: v for k, v in values.items() if _get(asked, k) != v}
            fitting.append(Layout(changes, candidate))
    shown: list[Layout] = []
    for layout in sorted(fitting, key=rank):
        if len(shown) < most and not any(_gains_nothing(layout, x) for x in shown):
            try:
                validated(changed(config, layout.changes), files=False)
            except ConfigError:
                continue
            shown.append(Layout(_needed(config, layout.changes), layout.plan))
    return shown


def _needed(config: RunConfig, changes: Changes) -> Changes:
    """Without those that the cluster decides alike when it is left to it."""
    aim = resolved(changed(config, changes))
    for key in list(changes):
        fewer = {k: v for k, v in changes.items() if k != key}
        if resolved(changed(config, fewer)) == aim:
            changes = fewer
    return changes


def _gains_nothing(layout: Layout, known: Layout) -> bool:
    """Whether ``layout`` is within 1 % of one that differs in sizes or sharding alone, or slower
    than one that changes less."""
    same = all(
        layout.changes.get(k) == known.changes.get(k)
        for k in ("cluster.placement", "learner.ranks", "rollout.tensor_parallel")
    )
    more = known.changes.items() <= layout.changes.items()
    ratio = layout.plan.step_s / known.plan.step_s
    return (same and 0.99 < ratio < 1.01) or (more and ratio > 0.99)


def _hundredths(seconds: float) -> int:
    """What is as fast within about 1 % counts as equal."""
    return round(100 * math.log(seconds))


def changed(config: RunConfig, values: Changes) -> RunConfig:
    """A copy of ``config`` with other values."""
    for key, value in values.items():
        node, name = key.split(".")
        config = replace(config, **{node: replace(getattr(config, node), **{name: value})})
    return config


def _candidates(asked: RunConfig) -> Iterator[Changes]:
    """Placement and split of the GPUs, sharding, offload, checkpointing, and sizes."""
    learner = asked.learner
    sequence = asked.data.max_prompt_tokens + asked.rollout.max_response_tokens
    own = learner.tokens_per_micro_batch
    tokens = sorted({own, *(t for t in (sequence, 2 * own) if t >= sequence)})
    sharding: dict[str, list[Any]] = {
        "learner.zero_stage": [2, 3],
        "learner.offload": _offloads(),
        "learner.gradient_checkpointing": [True, False],
        "learner.tokens_per_micro_batch": tokens,
    }
    if hasattr(learner, "sequence_parallel"):
        sharding["learner.sequence_parallel"] = [1, 2, 4, 8]
    for placed, values in product(list(_placements(asked)), product(*sharding.values())):
        yield {**placed, **dict(zip(sharding, values, strict=True))}


def _placements(asked: RunConfig) -> Iterator[Changes]:
    gpus, node = asked.cluster.gpus, asked.cluster.gpus_per_node
    for tp in (1, 2, 4, 8):
        place: Changes = {"rollout.tensor_parallel": tp}
        for eighth in range(1, 8):
            ranks = gpus * eighth // 8
            workers = (gpus - ranks) // tp
            if ranks and workers and tp <= node:
                yield place | {
                    "cluster.placement": "disaggregated",
                    "learner.ranks": ranks,
                    "rollout.workers": workers,
                    "rollout.memory_utilization": asked.rollout.memory_utilization,
                }
        if gpus % tp == 0 and tp <= node:
            for utilization in sorted({asked.rollout.memory_utilization, 0.7, 0.55, 0.4}):
                yield place | {
                    "cluster.placement": "colocated",
                    "learner.ranks": gpus,
                    "rollout.workers": gpus // tp,
                    "rollout.memory_utilization": utilization,
                }


def _offloads() -> list[Any]:
    kind = get_type_hints(LearnerConfig)["offload"]
    return [False, True] if kind is bool else list(kind)


def _get(config: RunConfig, key: str) -> Any:
    node, name = key.split(".")
    return getattr(getattr(config, node), name)


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
