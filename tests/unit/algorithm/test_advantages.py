from __future__ import annotations

import math
import statistics

import pytest
import torch

from rlvr.algorithm.advantages import (
    ADVANTAGES,
    dr_grpo_advantages,
    grpo_advantages,
    reinforce_pp_advantages,
    rloo_advantages,
)

ALL = [grpo_advantages, dr_grpo_advantages, rloo_advantages, reinforce_pp_advantages]


def oracle(name: str, reward: list[float], group: list[int], eps: float = 1e-6) -> list[float]:
    """Written from the definitions, one response at a time."""
    result = []
    for i, r in enumerate(reward):
        own = [x for x, g in zip(reward, group, strict=True) if g == group[i]]
        others = [
            x for j, (x, g) in enumerate(zip(reward, group, strict=True))
            if g == group[i] and j != i
        ]  # fmt: skip
        if len(own) == 1:
            result.append(0.0)
        elif name == "grpo":
            result.append((r - statistics.mean(own)) / (statistics.stdev(own) + eps))
        elif name == "rloo":
            result.append(r - statistics.mean(others))
        else:
            result.append(r - statistics.mean(own))
    if name == "reinforce_pp":
        std = statistics.stdev(result)
        result = [a / (std + eps) for a in result]
    return result


def draw() -> tuple[torch.Tensor, torch.Tensor]:
    group = torch.randint(-3, 4, (40,)) * 1_000_003
    group[0] = 5  # a response alone
    return torch.randn(40, dtype=torch.float64), group


@pytest.mark.parametrize("function", ALL)
def test_equals_the_definition(seed, function):
    reward, group = draw()
    name = function.__name__.removesuffix("_advantages")
    expected = torch.tensor(oracle(name, reward.tolist(), group.tolist()), dtype=torch.float64)
    torch.testing.assert_close(function(reward, group), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("function", ALL)
def test_equal_rewards_get_exactly_zero(seed, function):
    value = torch.rand(()).double()
    reward = torch.cat([value.repeat(7), torch.tensor([0.0, 1.0]).double()])
    group = torch.tensor([3] * 7 + [9] * 2)
    assert (function(reward, group)[:7] == 0).all()
    assert (function(reward, group)[7:] != 0).all()
    assert (function(reward.float(), group)[:7] == 0).all()
    assert (function(torch.full((5,), 0.1), torch.zeros(5).long()) == 0).all()


@pytest.mark.parametrize("function", ALL)
def test_order_does_not_matter_and_dtype_is_kept(seed, function):
    reward, group = draw()
    order = torch.randperm(len(reward))
    torch.testing.assert_close(
        function(reward[order], group[order]), function(reward, group)[order]
    )
    for dtype in (torch.bfloat16, torch.float32):
        result = function(reward.to(dtype), group)
        assert result.dtype == dtype and result.isfinite().all()


def test_grpo_does_not_see_the_scale_of_rewards(seed):
    reward, group = draw()
    scaled = grpo_advantages(reward * 37.0 + 5.0, group)
    torch.testing.assert_close(scaled, grpo_advantages(reward, group), rtol=1e-4, atol=1e-4)
    a = grpo_advantages(torch.tensor([1.0, 0, 0, 0]), torch.zeros(4).long())
    assert math.isclose(float(a[0]), 1.5, rel_tol=1e-5)


def test_by_name(seed):
    reward, group = draw()
    for function in ALL:
        name = function.__name__.removesuffix("_advantages")
        method = ADVANTAGES.build({"name": name}, "advantage")
        assert torch.equal(method(reward, group), function(reward, group))
    wide = ADVANTAGES.build({"name": "grpo", "eps": 10.0}, "advantage")
    assert torch.equal(wide(reward, group), grpo_advantages(reward, group, eps=10.0))
