"""What a coefficient distribution looks like, in a few numbers that are equal on every rank."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlvr.algorithm.credit.base import Ranks

_BINS = 4096


def coefficient_metrics(
    coefficients: Float[Tensor, "N"], token_advantage: Float[Tensor, "N"], ranks: Ranks
) -> dict[str, float]:
    """Mean, deviation and range of c per side, and its effective sample size as a share of N.

    The sides are the tokens with A > 0 and with A < 0; an empty side is left out. Collective.
    """
    c = coefficients.double()
    sides = [token_advantage > 0, token_advantage < 0]
    sums = [
        torch.stack([x.sum() for x in (side.double(), c * side, c * c * side)]) for side in sides
    ]
    whole = torch.stack([torch.full_like(c.sum(), len(c)), c.sum(), (c * c).sum()])
    total = ranks.all_reduce(torch.stack([*sums, whole]))
    tops = torch.stack([_largest(x[side]) for side in sides for x in (c, -c)])
    tops = ranks.all_reduce(tops, "max").reshape(2, 2)

    metrics: dict[str, float] = {}
    for side, row, (top, bottom) in zip(
        ("positive", "negative"), total[:2].tolist(), tops.tolist(), strict=True
    ):
        count, first, second = row
        if count:
            mean = first / count
            metrics[f"{side}_mean"] = mean
            metrics[f"{side}_std"] = max(second / count - mean**2, 0.0) ** 0.5
            metrics[f"{side}_max"] = top
            metrics[f"{side}_min"] = -bottom
    count, first, second = total[2].tolist()
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


def _largest(x: Float[Tensor, "n"]) -> Float[Tensor, ""]:
    """Maximum, −inf of nothing."""
    return x.max() if len(x) else x.new_tensor(-torch.inf)
