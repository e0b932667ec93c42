from __future__ import annotations

import torch

from rlvr.algorithm.aggregation import (
    at_least_float32,
    constant,
    segment_max,
    segment_mean,
    segment_min,
    segment_sum,
    sequence_mean,
    token_mean,
)
from rlvr.types import Totals


def test_shares_add_up_to_the_exact_value(tiny):
    batch = tiny.batch((4, 3, 5))
    x = torch.randn(batch.num_response_tokens, dtype=torch.float64)
    totals = Totals(batch.num_response_tokens, batch.num_sequences, 3, 50)
    rows = [x[batch.sequence_id == i] for i in range(batch.num_sequences)]
    expected = {
        "token": torch.cat(rows).mean(),
        "sequence": torch.stack([r.mean() for r in rows]).mean(),
        "sum": torch.stack([r.sum() / 50 for r in rows]).mean(),
    }
    shares = dict.fromkeys(expected, 0.0)
    for part in torch.randperm(batch.num_sequences).split(5):
        micro, n = batch.select(part)
        shares["token"] += token_mean(x[n], micro, totals)
        shares["sequence"] += sequence_mean(x[n], micro, totals)
        shares["sum"] += constant(x[n], micro, totals)
    for name, value in expected.items():
        torch.testing.assert_close(shares[name], value, rtol=1e-12, atol=1e-12)


def test_segments(seed):
    x = torch.randn(50, dtype=torch.float64, requires_grad=True)
    segment = torch.randint(0, 6, (50,))
    segment[segment == 2] = 3  # an empty one
    for i in range(6):
        own = x[segment == i]
        torch.testing.assert_close(segment_sum(x, segment, 6)[i], own.sum())
        if len(own):
            torch.testing.assert_close(segment_mean(x, segment, 6)[i], own.mean())
            assert segment_max(x, segment, 6)[i] == own.max()
            assert segment_min(x, segment, 6)[i] == own.min()
    assert segment_mean(x, segment, 6)[2] == 0
    assert segment_max(x, segment, 6, empty=0.0)[2] == 0
    assert segment_min(x, segment, 6)[2] == torch.inf
    (gradient,) = torch.autograd.grad(segment_mean(x, segment, 6).sum(), x)
    torch.testing.assert_close(gradient, 1.0 / torch.bincount(segment)[segment].double())


def test_half_precision_is_widened():
    assert at_least_float32(torch.zeros(2, dtype=torch.bfloat16)).dtype == torch.float32
    assert at_least_float32(torch.zeros(2, dtype=torch.float64)).dtype == torch.float64
