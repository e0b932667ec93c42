"""The numbers that describe coefficients, against their definitions."""

from __future__ import annotations

import pytest
import torch

from rlvr.algorithm.credit import SoloRanks
from rlvr.algorithm.credit.diagnostics import separation_auc


def exact_auc(score: torch.Tensor, positive: torch.Tensor) -> float:
    """Every pair compared; a tie counts half."""
    gap = score[positive][:, None] - score[~positive][None, :]
    return float(((gap > 0).double() + 0.5 * (gap == 0)).mean())


def drawn(outliers: float) -> tuple[torch.Tensor, torch.Tensor]:
    positive = torch.rand(3000) < 0.3
    score = torch.randn(3000).double() + 0.8 * positive
    score[::100] *= outliers
    return score, positive


@pytest.mark.parametrize("outliers", [1.0, 1e3])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_auc_of_the_histogram_is_the_exact_one(seed, outliers, scale):
    score, positive = drawn(outliers)
    auc = separation_auc(scale * score, positive, SoloRanks())
    assert auc == pytest.approx(exact_auc(score, positive), abs=1e-3 if outliers == 1 else 2e-2)


def test_auc_over_ranks_is_that_of_the_whole(tiny):
    score, positive = drawn(1.0)
    parts = [slice(0, 1000), slice(1000, 3000), slice(3000, 3000)]  # the last rank has nothing
    held = [(score[part], positive[part]) for part in parts]
    values = tiny.on_ranks(3, lambda ranks: separation_auc(*held[ranks.rank], ranks))
    whole = separation_auc(score, positive, SoloRanks())
    assert values == [pytest.approx(whole, abs=1e-4)] * 3


def test_auc_of_the_extremes(seed):
    positive = torch.tensor([True, False, True, False])
    assert separation_auc(positive.double(), positive, SoloRanks()) == 1.0
    assert separation_auc(-positive.double(), positive, SoloRanks()) == 0.0
    assert separation_auc(torch.ones(4).double(), positive, SoloRanks()) == 0.5
