"""Attention over packed sequences: every token attends within its own sequence only.

Registered with transformers under the name ``rlvr_packed``, so that any model that uses its
attention interface can be trained on packed batches. The sequence boundaries travel as the
keyword arguments that transformers uses for flash attention (``cu_seq_lens_q``,
``max_length_q``).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

NAME = "rlvr_packed"


def packed_attention(
    module: nn.Module,
    query: Float[Tensor, "1 H T d"],
    key: Float[Tensor, "1 K T d"],
    value: Float[Tensor, "1 K T d"],
    attention_mask: None,
    *,
    cu_seq_lens_q: Int[Tensor, "S+1"],
    max_length_q: int,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: object,
) -> tuple[Float[Tensor, "1 T H d"], None]:
    """Causal attention inside each packed sequence, in the signature of transformers."""
    if dropout:
        raise ValueError(f"attention dropout is {dropout}: a policy gradient needs it to be 0")
    attend = _varlen if query.is_cuda else _padded
    out = attend(query[0], key[0], value[0], cu_seq_lens_q, max_length_q, scaling, sliding_window)
    return out.unsqueeze(0), None


def _varlen(
    query: Float[Tensor, "H T d"],
    key: Float[Tensor, "K T d"],
    value: Float[Tensor, "K T d"],
    cu_seqlens: Int[Tensor, "S+1"],
    longest: int,
    scaling: float | None,
    window: int | None,
) -> Float[Tensor, "T H d"]:
    """torch's variable-length flash attention (forward and backward)."""
    from torch.nn.attention.varlen import varlen_attn

    out = varlen_attn(
        query.transpose(0, 1),
        key.transpose(0, 1),
        value.transpose(0, 1),
        cu_seqlens,
        cu_seqlens,
        longest,
        longest,
        scale=scaling,
        window_size=(window - 1 if window else -1, 0),
        enable_gqa=query.shape[0] != key.shape[0],
    )
    assert isinstance(out, Tensor)  # no auxiliary output was asked for
    return out


def _padded(
    query: Float[Tensor, "H T d"],
    key: Float[Tensor, "K T d"],
    value: Float[Tensor, "K T d"],
    cu_seqlens: Int[Tensor, "S+1"],
    longest: int,
    scaling: float | None,
    window: int | None,
) -> Float[Tensor, "T H d"]:
    """One SDPA call over sequences padded at their end, which a causal mask cannot see.

    Padding exists inside this function alone, and only where there is no varlen kernel.
    """
    start, length = cu_seqlens[:-1].long(), (cu_seqlens[1:] - cu_seqlens[:-1]).long()
    column = torch.arange(longest, device=query.device)
    real = column[None, :] < length[:, None]
    place = torch.where(real, start[:, None] + column[None, :], 0)

    repeat = query.shape[0] // key.shape[0]
    q = query[:, place].transpose(0, 1)  # [S H L d]
    k = key.repeat_interleave(repeat, 0)[:, place].transpose(0, 1)
    v = value.repeat_interleave(repeat, 0)[:, place].transpose(0, 1)
    if window is None or window >= longest:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling)
    else:
        distance = column[:, None] - column[None, :]
        visible = (distance >= 0) & (distance < window)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, scale=scaling)
    return out.transpose(1, 2)[real]


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, lambda *_, **__: None)
