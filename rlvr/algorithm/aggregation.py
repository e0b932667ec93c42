"""Sums and means over responses, and the three ways a loss is averaged.

Each aggregation returns this micro-batch's *share*: its numerator over the denominator of the
whole mini-batch (``Totals``). Adding the shares of all micro-batches and ranks gives the exact
value, so that packing, micro-batch size and rank count cannot change a gradient.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlvr.types import TokenBatch, Totals

Entries = Float[Tensor, "n"]
SegmentIds = Int[Tensor, "n"]  # the segment of each entry


def at_least_float32(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """``x``, in float32 if it came in half precision."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def segment_sum(
    x: Float[Tensor, "n *rest"], segment: Int[Tensor, "n"], count: int
) -> Float[Tensor, "count *rest"]:
    """Sum of ``x`` over the entries of each segment id in ``0..count-1``."""
    return x.new_zeros((count, *x.shape[1:])).index_add(0, segment, x)


def segment_mean(x: Entries, segment: SegmentIds, count: int) -> Float[Tensor, "count"]:
    """Mean of ``x`` over each segment; 0 for an empty one."""
    size = torch.bincount(segment, minlength=count).clamp(min=1)
    return segment_sum(x, segment, count) / size


def segment_max(
    x: Entries, segment: SegmentIds, count: int, *, empty: float = -torch.inf
) -> Float[Tensor, "count"]:
    """Maximum of ``x`` over each segment, and at least ``empty``."""
    return x.new_full((count,), empty).scatter_reduce(0, segment, x, "amax")


def segment_min(x: Entries, segment: SegmentIds, count: int) -> Float[Tensor, "count"]:
    """Minimum of ``x`` over each segment; ∞ for an empty one."""
    return x.new_full((count,), torch.inf).scatter_reduce(0, segment, x, "amin")


def token_mean(x: Float[Tensor, "n"], batch: TokenBatch, totals: Totals) -> Float[Tensor, ""]:
    """Mean over all tokens of the mini-batch (DAPO, CISPO)."""
    return x.sum() / max(totals.tokens, 1)


def sequence_mean(x: Float[Tensor, "n"], batch: TokenBatch, totals: Totals) -> Float[Tensor, ""]:
    """Mean over the tokens of a response, then over responses (GRPO, GSPO)."""
    per_response = segment_mean(x, batch.sequence_id, batch.num_sequences)
    return per_response.sum() / max(totals.responses, 1)


def constant(x: Float[Tensor, "n"], batch: TokenBatch, totals: Totals) -> Float[Tensor, ""]:
    """Sum over tokens over (responses × longest allowed response): no length bias (Dr.GRPO)."""
    return x.sum() / max(totals.responses * totals.max_response_tokens, 1)


AGGREGATIONS = {f.__name__: f for f in (token_mean, sequence_mean, constant)}
