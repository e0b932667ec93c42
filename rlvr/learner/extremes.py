"""The response tokens whose coefficients stand out, for people to look at."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rlvr.types import RankedTokens, TokenBatch


def extreme_tokens(batch: TokenBatch, coefficients: Float[Tensor, "N"], count: int) -> RankedTokens:
    """The ``count`` tokens with the largest and as many with the smallest coefficients.

    Responses without an advantage are left out: their coefficients weight nothing.
    """
    weighed = torch.nonzero(batch.token_advantage)[:, 0]
    c = coefficients[weighed].double()
    k = min(count, len(c))
    n = weighed[torch.unique(torch.cat([c.topk(k).indices, (-c).topk(k).indices]))]
    position = n - batch.response_start[batch.sequence_id[n]]
    found = batch.response_id[batch.sequence_id[n]], position, coefficients[n].double()
    return ranked(*(x.cpu().numpy() for x in found))


def merged_extremes(ranks: Sequence[RankedTokens], count: int) -> RankedTokens:
    """Of all ranks' tokens the first and the last ``count``; none if all coefficients are equal."""
    columns = ("response", "position", "coefficient")
    tokens = ranked(*(np.concatenate([getattr(r, name) for r in ranks]) for name in columns))
    place = np.arange(len(tokens.coefficient))
    keep = (place < count) | (place[::-1] < count)
    keep &= tokens.coefficient.min(initial=np.inf) < tokens.coefficient.max(initial=-np.inf)
    return RankedTokens(*(getattr(tokens, name)[keep] for name in columns))


def ranked(response: np.ndarray, position: np.ndarray, coefficient: np.ndarray) -> RankedTokens:
    """In descending order of the coefficients."""
    order = np.lexsort((position, response, -coefficient))
    return RankedTokens(response[order], position[order], coefficient[order])
