from __future__ import annotations

import math

import pytest
import torch

from rlvr.algorithm.metrics import Max, Mean, summed, values


def test_means_add_sums_and_counts_and_maxima_keep_the_larger():
    a = {"mean": Mean.of(torch.tensor([1.0, 2.0, 6.0])), "max": Max(torch.tensor(3.0))}
    b = {"mean": Mean(torch.tensor(1.0), 1.0), "max": Max(-1.0), "only": Mean(2.0, 4.0)}
    ranks = [summed([a, b]), summed([a])]
    assert ranks[0]["mean"] == Mean(10.0, 4.0) and type(ranks[0]["mean"].total) is float
    assert values(summed(ranks)) == pytest.approx({"mean": 19 / 7, "max": 3.0, "only": 0.5})


def test_a_numerator_may_have_its_count_elsewhere():
    loss, step = Mean(torch.tensor(1.5), 0.0), Mean(0.0, 1.0)
    assert values(summed([{"loss": loss}, {"loss": loss}, {"loss": step}])) == {"loss": 3.0}


def test_a_mean_of_nothing_is_left_out():
    nothing = Mean.of(torch.zeros(0))
    assert math.isnan(nothing.value)
    assert values({"nothing": nothing, "largest": Max(0.0)}) == {"largest": 0.0}


def test_a_report_keeps_no_graph_alive():
    x = torch.ones(3, requires_grad=True)
    metrics = [Mean.of(x * 2), Mean(x.sum(), 3), Max(x.max())]
    totals = [m.value if isinstance(m, Max) else m.total for m in metrics]
    assert not any(t.requires_grad for t in totals)


def test_the_mean_of_a_mask_is_its_share():
    assert Mean.of(torch.tensor([True, False, False, True])).value == 0.5
