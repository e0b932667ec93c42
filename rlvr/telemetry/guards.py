"""Guards: rules that read a step's metrics and say in words what goes wrong."""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from rlvr.config import GuardsConfig

_FIRST = 5  # steps whose median is what a run began with
_WELL = 5  # steps after which a trouble that is back is told again


@dataclass(frozen=True)
class Rule:
    """``name`` is the key of its threshold under ``telemetry.guards``."""

    name: str
    metric: str
    wrong: Callable[[float, float], Any]
    advice: str
    relative: bool = False  # the threshold is a multiple of what the run began with,
    least: float = 0.0  # and of this at least


_RULES = (
    Rule(
        "entropy_collapse",
        "update/entropy",
        operator.lt,
        "exploration is over; a higher clip (objective=dapo), learner.entropy_bonus, a lower "
        "learner.lr",
    ),
    Rule("kl_blow_up", "policy/kl_old", operator.gt, "the steps are too large; a lower learner.lr"),
    Rule(
        "reference_kl",
        "policy/kl_reference",
        operator.gt,
        "the policy has left its reference; a larger coefficient of the objective's KL",
    ),
    Rule(
        "length_collapse",
        "length/mean",
        operator.lt,
        "responses shrink; read responses/, is the reward being gamed?",
        relative=True,
    ),
    Rule(
        "equal_rewards",
        "groups/with_spread",
        operator.le,
        "no group teaches anything; other prompts, a larger rollout.group_size, or "
        "train.dynamic_sampling=true",
    ),
    Rule("verifier_errors", "verifier/error", operator.gt, "see detail in responses/"),
    Rule(
        "verifier_timeouts",
        "verifier/timeout",
        operator.gt,
        "see detail in responses/; a higher verifier.timeout_s, or more verifier.processes",
    ),
    Rule(
        "rising_mismatch",
        "mismatch/kl",
        operator.gt,
        "engine and learner drift apart; a correction, less train.max_staleness, fp32 logits",
        relative=True,
        least=1e-4,
    ),
)


class Guards:
    """Looks at the rows of a run, in order; tells of a trouble once, until it was gone for a while.

    A metric that is missing or null says nothing, neither good nor bad.
    """

    def __init__(self, config: GuardsConfig) -> None:
        set_by_name = {rule: getattr(config, rule.name) for rule in _RULES}
        self._thresholds = {r: float(t) for r, t in set_by_name.items() if t is not None}
        self._first: dict[Rule, list[float]] = {rule: [] for rule in self._thresholds}
        self._well: dict[Rule, int] = {}  # of those in trouble, how many steps were well since

    @property
    def active(self) -> int:
        """How many are in trouble now."""
        return len(self._well)

    def look(self, row: Mapping[str, Any]) -> dict[str, str]:
        """What there is to tell after this step: words, by the names of rules."""
        told = {}
        for rule, threshold in self._thresholds.items():
            if not isinstance(value := row.get(rule.metric), int | float):
                continue
            if rule.relative and len(self._first[rule]) < _FIRST:
                self._first[rule].append(value)
                continue
            if rule.relative:
                threshold *= max(median(self._first[rule]), rule.least)
            if not rule.wrong(value, threshold):
                self._recover(rule)
                continue
            if rule not in self._well:
                told[rule.name] = (
                    f"{rule.metric} is {value:.4g}, the limit is {threshold:.4g} "
                    f"(telemetry.guards.{rule.name}): {rule.advice}"
                )
            self._well[rule] = 0
        return told

    def _recover(self, rule: Rule) -> None:
        if rule in self._well:
            self._well[rule] += 1
            if self._well[rule] == _WELL:
                del self._well[rule]
