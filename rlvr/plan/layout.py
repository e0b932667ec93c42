"""Other layouts of the same run: the fastest that fit, or the least changes that make it fit."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import log
from typing import Any, get_type_hints

from rlvr.config import LearnerConfig, RunConfig
from rlvr.errors import ConfigError
from rlvr.loop.resolve import resolved
from rlvr.loop.validate import validated
from rlvr.plan.plan import Plan, plan_of

Changes = dict[str, Any]  # values by key

_PLACEMENT = (
    "cluster.placement",
    "learner.ranks",
    "rollout.workers",
    "rollout.tensor_parallel",
    "rollout.memory_utilization",  # of each the best alone is shown
)


@dataclass(frozen=True)
class Layout:
    """A plan, and what sets it apart from the configuration asked about."""

    changes: Changes
    plan: Plan

    def overrides(self) -> str:
        """To paste behind the command."""
        return " ".join(f"{key}={_written(value)}" for key, value in self.changes.items())


def fastest(config: RunConfig, plan: Plan, most: int) -> list[Layout]:
    """Layouts of ``config`` (not resolved) that fit, beside its ``plan``: the fastest of each
    placement; of those within 1 % the one that changes least."""
    return _best(config, plan, most, lambda x: (round(100 * log(x.plan.step_s)), len(x.changes)))


def remedies(config: RunConfig, plan: Plan, most: int) -> list[Layout]:
    """What to change so that it fits: the fewest keys first, then the fastest.

    If nothing does on this cluster, on one of two, four or eight times its nodes.
    """
    for times in (1, 2, 4, 8):
        cluster = replace(config.cluster, nodes=config.cluster.nodes * times)
        size = {"cluster": f"{cluster.nodes}x{cluster.gpus_per_node}"} if times > 1 else {}
        larger = replace(config, cluster=cluster)
        if found := _best(larger, plan, most, lambda x: (len(x.changes), x.plan.step_s)):
            return [Layout({**size, **x.changes}, x.plan) for x in found]
    return []


def _best(
    config: RunConfig, plan: Plan, most: int, rank: Callable[[Layout], tuple[float, ...]]
) -> list[Layout]:
    """The first of each placement among those that fit and are valid."""
    asked, fitting = resolved(config), []
    for values in _candidates(asked, plan.shape.heads):
        candidate = plan_of(resolved(changed(config, values)), plan.gpu, plan.work)
        if candidate.memory.fits:
            changes = {k: v for k, v in values.items() if _get(asked, k) != v}
            fitting.append(Layout(changes, candidate))
    best: dict[Any, Layout] = {}
    for layout in sorted(fitting, key=rank):
        placement = tuple(_get(layout.plan.config, key) for key in _PLACEMENT[:4])
        if len(best) == most or placement in best:
            continue
        try:
            validated(changed(config, layout.changes), files=False)
        except ConfigError:
            continue
        best[placement] = Layout(_needed(config, layout.changes), layout.plan)
    return list(best.values())


def _needed(config: RunConfig, changes: Changes) -> Changes:
    """Without those that the cluster decides alike when it is left to it."""
    aim = resolved(changed(config, changes))
    for key in list(changes):
        fewer = {k: v for k, v in changes.items() if k != key}
        if resolved(changed(config, fewer)) == aim:
            changes = fewer
    return changes


def changed(config: RunConfig, values: Changes) -> RunConfig:
    """A copy of ``config`` with other values."""
    for key, value in values.items():
        node, name = key.split(".")
        config = replace(config, **{node: replace(getattr(config, node), **{name: value})})
    return config


def _candidates(asked: RunConfig, heads: int) -> Iterator[Changes]:
    """Placement and split of the GPUs, sharding, offload, checkpointing, and sizes."""
    own = asked.learner.tokens_per_micro_batch
    sequence = asked.data.max_prompt_tokens + asked.rollout.max_response_tokens
    sharding: dict[str, list[Any]] = {
        "learner.zero_stage": [2, 3],
        "learner.offload": _offloads(),
        "learner.gradient_checkpointing": [True, False],
        "learner.tokens_per_micro_batch": sorted({own, max(own, sequence), 2 * own}),
    }
    if hasattr(asked.learner, "sequence_parallel"):
        sharding["learner.sequence_parallel"] = [s for s in (1, 2, 4, 8) if heads % s == 0]
    for placement, values in product(_placements(asked, heads), product(*sharding.values())):
        changes = dict(zip(_PLACEMENT, placement, strict=True))
        yield {**changes, **dict(zip(sharding, values, strict=True))}


def _placements(asked: RunConfig, heads: int) -> Iterator[tuple[str, int, int, int, float]]:
    gpus, share = asked.cluster.gpus, asked.rollout.memory_utilization
    for tp in (t for t in (1, 2, 4, 8) if t <= asked.cluster.gpus_per_node and heads % t == 0):
        for ranks in sorted({gpus * eighth // 8 for eighth in range(1, 8)}):
            if ranks and gpus - ranks >= tp:
                yield "disaggregated", ranks, (gpus - ranks) // tp, tp, share
        for less in sorted({share, 0.7, 0.55, 0.4}):
            if gpus % tp == 0:
                yield "colocated", gpus, gpus // tp, tp, less


def _offloads() -> list[Any]:
    kind = get_type_hints(LearnerConfig)["offload"]
    return [False, True] if kind is bool else list(kind)


def _get(config: RunConfig, key: str) -> Any:
    node, name = key.split(".")
    return getattr(getattr(config, node), name)


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
