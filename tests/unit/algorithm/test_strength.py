"""Coefficients drawn towards uniform, and by how much in which step."""

from __future__ import annotations

import random

import pytest
import torch

from rlvr.algorithm.strength import AUDITED, STRENGTHS, drawn
from rlvr.errors import ConfigError


def build(name, **options):
    return STRENGTHS.build({"name": name, **options}, "strength")


def test_at_one_nothing_changes_at_zero_nothing_is_left(seed):
    c = torch.rand(50) * 3
    assert drawn(c, build("constant")(random.randint(1, 99), {})) is c
    assert (drawn(c, 0.0) == 1).all()
    s = random.random()
    expected = [1 + s * (float(x) - 1) for x in c]
    torch.testing.assert_close(drawn(c, s), torch.tensor(expected))
    assert float(drawn(c / c.mean(), s).mean()) == pytest.approx(1)


def test_linear_is_a_line_between_two_steps(seed):
    first, last, steps = random.random(), random.random(), random.randint(2, 30)
    schedule = build("linear", first=first, last=last, steps=steps)
    found = [schedule(step, {}) for step in range(1, steps + 4)]
    for k, s in enumerate(found[:steps]):
        assert s == pytest.approx(first + (last - first) * k / (steps - 1))
    assert found[steps - 1 :] == [last] * 4


def test_audits_vouch_for_a_method(seed):
    schedule, low = build("audited", first=0.25), random.uniform(0.01, 0.99)
    assert schedule(1, {}) == 0.25
    for value, s in ((low, low), (-low, 0.0), (1 + low, 1.0)):
        assert schedule(random.randint(2, 99), {AUDITED: value}) == s


@pytest.mark.parametrize(
    "node",
    [{"value": 1.2}, {"value": -0.1}, {"name": "linear", "steps": 1}, {"name": "liner"}],
)
def test_what_cannot_be_is_refused(node):
    with pytest.raises(ConfigError):
        build(**{"name": "constant"} | node)
