"""The chunked head against a literal float64 log-softmax."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from rlvr.learner.logprob import ChunkedLogProb, LogProbHead


def literal(hidden, weight, target, temperature):
    logp = torch.log_softmax(hidden @ weight.T / temperature, -1)
    entropy = -(logp.exp() * logp).sum(-1)
    normaliser = torch.logsumexp(hidden @ weight.T / temperature, -1)
    return logp[torch.arange(len(target)), target], entropy, normaliser


@pytest.mark.parametrize("chunk_elements", [1, 37, 500, 10**6])
def test_values_and_gradients_equal_the_literal_softmax(chunk_elements):
    n, d, vocabulary, temperature = 7, 5, 23, 0.6
    hidden = torch.randn(n, d, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(vocabulary, d, dtype=torch.float64, requires_grad=True)
    target = torch.randint(vocabulary, (n,))
    on_logp, on_entropy = torch.randn(2, n, dtype=torch.float64)

    def gradients(outputs):
        loss = (on_logp * outputs[0]).sum() + (on_entropy * outputs[1]).sum()
        return torch.autograd.grad(loss, (hidden, weight))

    expected = literal(hidden, weight, target, temperature)
    actual = ChunkedLogProb.apply(hidden, weight, target, temperature, chunk_elements)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-12, atol=1e-12)
    for a, e in zip(gradients(actual), gradients(expected), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-12)


def test_extreme_logits_stay_finite():
    hidden = torch.tensor([[1e4, 0.0], [0.0, -1e4]], requires_grad=True)
    weight = torch.randn(50, 2, requires_grad=True)
    logp, entropy, _ = ChunkedLogProb.apply(hidden, weight, torch.tensor([3, 4]), 1.0, 64)
    (logp.sum() + entropy.sum()).backward()
    assert torch.isfinite(logp).all() and torch.isfinite(entropy).all()
    assert torch.isfinite(hidden.grad).all() and torch.isfinite(weight.grad).all()


def test_bfloat16_input_is_accumulated_in_float32():
    hidden = torch.randn(64, 32).bfloat16()
    weight = torch.randn(200, 32).bfloat16()
    target = torch.randint(200, (64,))
    logp, _, _ = ChunkedLogProb.apply(hidden, weight, target, 0.9, 1000)
    assert logp.dtype == torch.float32
    expected, _, _ = literal(hidden.double(), weight.double(), target, 0.9)
    assert (logp.double() - expected).abs().max() < 0.15  # logits are rounded to bf16, once


class LargestAllocation(TorchDispatchMode):
    """Watches every operator's outputs."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(t, torch.Tensor):
                self.elements = max(self.elements, t.numel())
        return out


def test_nothing_of_size_tokens_times_vocabulary_is_allocated():
    n, d, vocabulary = 512, 8, 8192
    linear = nn.Linear(d, vocabulary, bias=False)
    head = LogProbHead(linear, 1.0, logits_mib=1)
    hidden = torch.randn(n, d, requires_grad=True)
    with LargestAllocation() as seen:
        logp, entropy, _ = head(hidden, torch.randint(vocabulary, (n,)))
        (logp.sum() + entropy.sum()).backward()
    assert linear.weight.grad is not None
    assert seen.elements <= max(2**20 // 4, vocabulary * d)
    assert seen.elements < n * vocabulary / 10


def test_a_bias_is_refused():
    with pytest.raises(ValueError, match="bias"):
        LogProbHead(nn.Linear(4, 8), 1.0, 1)
