"""When guards warn, and when they do not."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest

from rlvr.config import GuardsConfig
from rlvr.telemetry.guards import _RULES, Guards

WELL = {
    "update/entropy": 1.0,
    "policy/kl_old": 1e-3,
    "policy/kl_reference": 0.5,
    "length/mean": 100.0,
    "groups/with_spread": 0.5,
    "verifier/error": 0.0,
    "verifier/timeout": 0.01,
    "mismatch/kl": 2e-4,
}
TROUBLE = {
    "entropy_collapse": {"update/entropy": 0.04},
    "kl_blow_up": {"policy/kl_old": 0.11},
    "reference_kl": {"policy/kl_reference": 5.1},
    "length_collapse": {"length/mean": 29.9},
    "equal_rewards": {"groups/with_spread": 0.0},
    "verifier_errors": {"verifier/error": 0.06},
    "verifier_timeouts": {"verifier/timeout": 0.06},
    "rising_mismatch": {"mismatch/kl": 2.1e-3},
}


def told(guards: Guards, rows) -> list[list[str]]:
    return [sorted(guards.look({**WELL, **row})) for row in rows]


def test_every_limit_has_a_rule_and_a_case():
    assert {rule.name for rule in _RULES} == set(TROUBLE) == {f.name for f in fields(GuardsConfig)}


@pytest.mark.parametrize("name", TROUBLE)
def test_a_trouble_is_told_once_and_again_when_it_comes_back(name):
    guards, trouble = Guards(GuardsConfig()), TROUBLE[name]
    assert told(guards, [{}] * 6) == [[]] * 6
    assert told(guards, [trouble, trouble, {}, trouble, *[{}] * 4]) == [[name], *[[]] * 7]
    assert guards.active == 1
    assert told(guards, [{}, trouble]) == [[], [name]]


def test_limits_can_be_set_and_switched_off():
    config = GuardsConfig(entropy_collapse=None, kl_blow_up=0.2)
    guards = Guards(config)
    assert told(guards, [{"update/entropy": 0.0, "policy/kl_old": 0.15}]) == [[]]
    [words] = guards.look({"policy/kl_old": 0.25}).values()
    assert "policy/kl_old is 0.25, the limit is 0.2 (telemetry.guards.kl_blow_up)" in words


@pytest.mark.parametrize("nothing", [{}, {"update/entropy": None}, {"rollout/reward_mean": 1.0}])
def test_what_is_missing_says_nothing(nothing):
    guards = Guards(GuardsConfig())
    assert guards.look(nothing) == {} and guards.active == 0


def test_zero_mismatch_at_the_start_is_not_a_limit_of_zero():
    guards = Guards(GuardsConfig())
    assert told(guards, [{"mismatch/kl": 0.0}] * 5 + [{"mismatch/kl": 9e-4}]) == [[]] * 6
    assert told(guards, [{"mismatch/kl": math.nextafter(1e-3, 1)}]) == [["rising_mismatch"]]
