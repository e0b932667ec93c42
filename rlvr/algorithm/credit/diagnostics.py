"""What a coefficient distribution looks like, in a few numbers that are equal on every rank."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlvr.algorithm.aggregation import segment_max
from rlvr.algorithm.credit.base import Ranks

_BINS = 4096


def coefficient_metrics(
    coefficients: Float[Tensor, "N"], token_advantage: Float[Tensor, "N"], ranks: Ranks
) -> dict[str, float]:
    """Mean, deviation and range of c per side, and |c|'s effective sample size as a share of N.

    The sides are the tokens with A > 0 and with A < 0; an empty side is left out. Collective.
    """
    c = coefficients.double()
    side = torch.where(token_advantage > 0, 0, torch.where(token_advantage < 0, 1, 2))
    members = [(c, side == 0), (c, side == 1), (c.abs(), side <= 2)]
    sums = [torch.stack([y.sum() for y in (m.double(), x * m, x * x * m)]) for x, m in members]
    *sums_of_sides, whole = ranks.all_reduce(torch.stack(sums)).tolist()
    tops = torch.stack([segment_max(x, side, 3) for x in (c, -c)], 1)
    tops_of_sides = ranks.all_reduce(tops, "max")[:2].tolist()

    metrics: dict[str, float] = {}
    for name, (count, first, second), (top, bottom) in zip(
        ("positive", "negative"), sums_of_sides, tops_of_sides, strict=True
    ):
        if count:
            mean = first / count
            metrics[f"{name}_mean"] = mean
            metrics[f"{name}_std"] = max(second / count - mean**2, 0.0) ** 0.5
            metrics[f"{name}_max"] = top
            metrics[f"{name}_min"] = -bottom
    count, first, second = whole
    if second:
        metrics["effective_sample_size"] = first**2 / (count * second)
    return metrics


def separation_auc(score: Float[Tensor, "n"], positive: Bool[Tensor, "n"], ranks: Ranks) -> float:
    """Probability that a positive scores above a negative, from a histogram over all ranks.

    A pair within a bin counts half, so the error is at most half the share of such pairs. The
    4,096 bins are even in x/(1+|x|), x the standardised score, so that a few outliers do not
    crowd the others into one bin. NaN if a side is empty. Collective.
    """
    score = score.double()
    count = torch.full_like(score.sum(), len(score))
    count, first, second = ranks.all_reduce(torch.stack([count, score.sum(), (score**2).sum()]))
    mean = first / count
    x = (score - mean) / (second / count - mean**2).clamp(min=1e-300).sqrt()
    place = ((x / (1 + x.abs()) + 1) / 2 * _BINS).long().clamp(0, _BINS - 1)
    counts = torch.stack([torch.bincount(place[s], minlength=_BINS) for s in (positive, ~positive)])
    above, below = ranks.all_reduce(counts.double())
    wins = (above * (below.cumsum(0) - below / 2)).sum()
    return float(wins / (above.sum() * below.sum()))
