"""Log-probabilities from hidden states, in chunks over the vocabulary.

Nothing of size [tokens, vocabulary] ever exists, neither forward nor backward: the head's
product is formed for a slice of the vocabulary at a time, folded into running sums and dropped.
Slicing the vocabulary rather than the tokens means that each row of the weight's gradient is
written exactly once, with no accumulation in low precision.
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

TokenStatistics = tuple[Float[Tensor, "n"], Float[Tensor, "n"], Float[Tensor, "n"]]


class ChunkedLogProb(torch.autograd.Function):
    """(hidden, weight, target) -> (log p(target), entropy, log normaliser), differentiable.

    Logits are divided by ``temperature``. Results are float32 (float64 for float64 input).
    The log normaliser is a statistic, not a path for gradients.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Float[Tensor, "n d"],
        weight: Float[Tensor, "V d"],
        target: Int[Tensor, "n"],
        temperature: float,
        chunk_elements: int,
    ) -> TokenStatistics:
        """Online log-sum-exp over slices of the vocabulary."""
        n, dtype = hidden.shape[0], torch.promote_types(hidden.dtype, torch.float32)
        top = hidden.new_full((n,), -torch.inf, dtype=dtype)
        total = hidden.new_zeros(n, dtype=dtype)  # Σ exp(z - top)
        weighted = hidden.new_zeros(n, dtype=dtype)  # Σ exp(z - top) · z
        z_target = hidden.new_zeros(n, dtype=dtype)
        for rows in _vocabulary_slices(weight.shape[0], n, chunk_elements):
            z = (hidden @ weight[rows].T).to(dtype) / temperature
            new_top = torch.maximum(top, z.amax(1))
            scale = torch.exp(top - new_top)
            inside = (target >= rows.start) & (target < rows.stop)
            column = (target - rows.start).clamp(0, z.shape[1] - 1)
            z_target = torch.where(inside, z.gather(1, column[:, None])[:, 0], z_target)
            e = torch.exp(z - new_top[:, None])
            total = total * scale + e.sum(1)
            weighted = weighted * scale + e.mul_(z).sum(1)
            top = new_top
        log_normaliser = top + total.log()
        entropy = log_normaliser - weighted / total
        # Under ZeRO-3 the weight is a shard outside of this module's forward and backward. The
        # parameter object itself is kept, not a view: it is whole again when backward runs.
        ctx.weight = weight
        ctx.save_for_backward(hidden, target, log_normaliser, entropy)
        ctx.temperature, ctx.chunk_elements = temperature, chunk_elements
        ctx.mark_non_differentiable(log_normaliser)
        return z_target - log_normaliser, entropy, log_normaliser

    @staticmethod
    def backward(
        ctx: Any,
        grad_logp: Float[Tensor, "n"],
        grad_entropy: Float[Tensor, "n"],
        _: Tensor | None,
    ) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        """d logp/dz = onehot − p;  d H/dz = −p (log p + H)."""
        hidden, target, log_normaliser, entropy = ctx.saved_tensors
        weight, n, dtype = ctx.weight, hidden.shape[0], log_normaliser.dtype
        grad_hidden = torch.zeros_like(hidden, dtype=dtype)
        grad_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        through_entropy = bool(torch.any(grad_entropy != 0))
        for rows in _vocabulary_slices(weight.shape[0], n, ctx.chunk_elements):
            w = weight[rows]
            log_p = (hidden @ w.T).to(dtype) / ctx.temperature - log_normaliser[:, None]
            p = torch.exp(log_p)
            grad_z = p * -grad_logp[:, None]
            if through_entropy:
                grad_z -= grad_entropy[:, None] * p * (log_p + entropy[:, None])
            inside = torch.nonzero((target >= rows.start) & (target < rows.stop))[:, 0]
            grad_z[inside, target[inside] - rows.start] += grad_logp[inside]
            grad_z = (grad_z / ctx.temperature).to(hidden.dtype)
            grad_hidden += grad_z @ w
            if grad_weight is not None:
                grad_weight[rows] = grad_z.T @ hidden
        return grad_hidden.to(hidden.dtype), grad_weight, None, None, None


class LogProbHead(nn.Module):
    """Takes the place of ``lm_head`` (same weight, same name) and never forms the logits.

    Being a module, it has its weight gathered by DeepSpeed's ZeRO-3 hooks, forward and backward.
    """

    def __init__(self, linear: nn.Linear, temperature: float, logits_mib: int) -> None:
        super().__init__()
        if getattr(linear, "bias", None) is not None:
            raise ValueError("the model's lm_head has a bias, which is not supported")
        self.weight = cast(nn.Parameter, linear.weight)
        self.temperature = temperature
        self.chunk_elements = logits_mib * 2**20 // 4

    def forward(self, hidden: Float[Tensor, "n d"], target: Int[Tensor, "n"]) -> TokenStatistics:
        """log p(target), entropy and log normaliser of each row of ``hidden``."""
        return ChunkedLogProb.apply(
            hidden, self.weight, target, self.temperature, self.chunk_elements
        )


def _vocabulary_slices(vocabulary: int, tokens: int, elements: int) -> Iterator[slice]:
    """Slices of the vocabulary such that tokens × slice stays within ``elements``."""
    width = max(1, min(vocabulary, elements // max(tokens, 1)))
    for start in range(0, vocabulary, width):
        yield slice(start, min(start + width, vocabulary))
