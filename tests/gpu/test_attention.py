"""Attention over packed sequences on the GPU beside a float64 reference. Needs transformers too."""

from __future__ import annotations

import math

import pytest

# Head width, query and key heads, window; Qwen3 has heads of 128 and groups of queries.
SHAPES = {"64": (64, 4, 4, None), "128, grouped": (128, 8, 2, None), "window": (64, 4, 2, 37)}
LENGTHS = (1, 130, 257, 64)


@pytest.fixture
def attend(need):
    """``attend(shape, dtype, prefixes)``: the worst error of output and gradients, relative."""
    need("transformers", "jaxtyping")

    def run(shape: str, dtype: str, prefixes: bool) -> float:
        import torch

        from rlvr.learner.attention import packed_attention, with_prefixes
        from rlvr.packing import cu_seqlens_of

        width, heads, key_heads, window = SHAPES[shape]
        kind = getattr(torch, dtype)
        lengths = torch.tensor(LENGTHS, device="cuda")
        cu = cu_seqlens_of(lengths)
        # The third continues 70 tokens of the second, the fourth the whole third.
        prefix = torch.zeros(len(LENGTHS), 2, dtype=torch.long, device="cuda")
        if prefixes:
            prefix[2] = torch.tensor([cu[1], cu[1] + 70])
            prefix[3] = torch.tensor([cu[2], cu[3]])
        key_index, cu_keys = with_prefixes(cu, prefix) if prefixes else (None, cu)
        total = int(lengths.sum())
        tensors = [
            torch.randn(1, h, total, width, device="cuda").to(kind).requires_grad_()
            for h in (heads, key_heads, key_heads)
        ]
        out, _ = packed_attention(
            torch.nn.Module(),
            *tensors,
            None,
            cu_seq_lens_q=cu,
            cu_seq_lens_k=cu_keys,
            max_length_q=int(lengths.max()),
            max_length_k=int(cu_keys.diff().max()),
            key_index=key_index,
            scaling=1 / math.sqrt(width),
            sliding_window=window,
        )
        exact = [x.detach().double().requires_grad_() for x in tensors]
        wanted = reference(*exact, cu.tolist(), prefix.tolist(), window)
        weight = torch.randn_like(wanted)
        own = torch.autograd.grad((out[0].double() * weight).sum(), tensors)
        right = torch.autograd.grad((wanted * weight).sum(), exact)
        pairs = [(out[0], wanted), *zip(own, right, strict=True)]
        return max(float((a.double() - b).norm() / b.norm()) for a, b in pairs)

    return run


def reference(query, key, value, cu, prefix, window):
    """[T, H, d]: every token over its prefix and its own sequence, up to itself."""
    import torch

    repeat = query.shape[1] // key.shape[1]
    key, value = (x[0].repeat_interleave(repeat, 0) for x in (key, value))
    parts = []
    for (start, end), (first, last) in zip(zip(cu, cu[1:], strict=False), prefix, strict=True):
        q = query[0, :, start:end]
        k, v = (torch.cat([x[:, first:last], x[:, start:end]], 1) for x in (key, value))
        before = torch.arange(last - first, last - first + end - start, device=q.device)
        distance = before[:, None] - torch.arange(k.shape[1], device=q.device)
        seen = (distance >= 0) & (distance < (window or k.shape[1] + 1))
        scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
        weights = scores.masked_fill(~seen, -math.inf).softmax(-1)
        parts.append((weights @ v).transpose(0, 1))
    return torch.cat(parts)


@pytest.mark.parametrize("prefixes", [False, True], ids=["whole", "prefixes"])
@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16(attend, figures, shape, prefixes):
    """Packed attention, bf16.

    If not: this torch's kernel for sequences of different lengths (torch.nn.attention.varlen)
    computes something else on this GPU; it needs compute capability 8.0 and torch 2.10 or newer.
    """
    error = attend(shape, "bfloat16", prefixes)
    assert error < 0.02, f"off by {error:.1%}"
    figures(f"off by {error:.2%}, gradients included")


@pytest.mark.parametrize("prefixes", [False, True], ids=["whole", "prefixes"])
def test_float32(attend, figures, prefixes):
    """Packed attention, fp32.

    If not: model.dtype=float32 cannot be trained on this GPU, the quickstart neither; use bfloat16.
    """
    error = attend("128, grouped", "float32", prefixes)
    assert error < 1e-3, f"off by {error:.1%}"
    figures(f"off by {error:.0e}, gradients included")
