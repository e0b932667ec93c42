from __future__ import annotations

import math

import pytest
import torch

from rlvr.algorithm.correction import CORRECTIONS
from rlvr.algorithm.metrics import values


def build(**options):
    return CORRECTIONS.build(options, "correction")


def ratios(batch, level):
    """One token at a time."""
    result = []
    for t in range(batch.num_response_tokens):
        if level == "token":
            log = float(batch.logp_old[t] - batch.logp_rollout[t])
        else:
            same = batch.sequence_id == batch.sequence_id[t]
            log = sum((batch.logp_old[same] - batch.logp_rollout[same]).tolist())
        result.append(math.exp(log))
    return result


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("name", ["tis", "mask"])
def test_weights_equal_the_definition(tiny, name, level):
    batch = tiny.batch()
    cap = 1.5
    weights, metrics = build(name=name, level=level, cap=cap).weights(
        batch.logp_old, batch.logp_rollout, batch
    )
    expected, outside = [], 0
    for w in ratios(batch, level):
        if name == "tis":
            outside += w > cap
            expected.append(min(w, cap))
        else:
            out = w > cap or w < 1 / cap
            outside += out
            expected.append(0.0 if out else w)
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(weights, expected, rtol=1e-9, atol=1e-9)
    truncated = metrics["mismatch/truncated"]
    assert (int(truncated.total), int(truncated.count)) == (outside, batch.num_response_tokens)


def test_mismatch_metrics(tiny):
    batch = tiny.batch()
    weights, metrics = build(name="none").weights(batch.logp_old, batch.logp_rollout, batch)
    assert weights is None
    means = values(metrics)
    w = ratios(batch, "token")
    assert means["mismatch/ratio"] == pytest.approx(sum(w) / len(w))
    assert means["mismatch/ratio_max"] == pytest.approx(max(w))
    kl = sum(x - 1 - math.log(x) for x in w) / len(w)
    assert means["mismatch/kl"] == pytest.approx(kl)


def test_kl_is_an_estimate_of_kl_from_rollout_to_old(seed):
    """Exactly summed over a vocabulary, under the distribution that samples."""
    rollout, old = torch.randn(2, 9, dtype=torch.float64).log_softmax(-1)
    ratio = (old - rollout).exp()
    estimate = (rollout.exp() * (ratio - 1 - ratio.log())).sum()
    kl = (rollout.exp() * (rollout - old)).sum()
    torch.testing.assert_close(estimate, kl)


def test_extreme_and_half_precision_inputs_stay_finite(tiny):
    batch = tiny.batch()
    far = torch.full_like(batch.logp_old, -900.0)
    for name in ("tis", "mask"):
        for level in ("token", "sequence"):
            for old, rollout in ((far, batch.logp_rollout), (batch.logp_old, far)):
                method = build(name=name, level=level)
                weights, metrics = method.weights(old.bfloat16(), rollout.bfloat16(), batch)
                assert weights.dtype == torch.float32 and weights.isfinite().all()
                assert all(map(math.isfinite, values(metrics).values()))
