"""Attention over packed sequences: every token attends within its own sequence only.

Sequences may share a prefix: one holds it, the others begin after it and attend to it there.

Registered with transformers under the name ``rlvr_packed``, so that any model that uses its
attention interface can be trained on packed batches. The sequence boundaries travel as the
keyword arguments that transformers uses for flash attention (``cu_seq_lens_q``,
``cu_seq_lens_k``, ``max_length_q``, ``max_length_k``).
"""

from functools import cache
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from rlvr.learner.sequence_parallel import SequenceParallel
from rlvr.packing import cu_seqlens_of, ranges

NAME = "rlvr_packed"


def packed_attention(
    module: nn.Module,
    query: Float[Tensor, "1 H T d"],
    key: Float[Tensor, "1 h T d"],
    value: Float[Tensor, "1 h T d"],
    attention_mask: None,
    *,
    cu_seq_lens_q: Int[Tensor, "S1"],
    cu_seq_lens_k: Int[Tensor, "S1"],
    max_length_q: int,
    max_length_k: int,
    key_index: Int[Tensor, "K"] | None = None,
    sequence_parallel: SequenceParallel | None = None,
    num_tokens: int = 0,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: object,
) -> tuple[Float[Tensor, "1 T H d"], None]:
    """Causal attention inside each packed sequence, in the signature of transformers.

    ``key_index``, made by ``with_prefixes``, says where in T the keys of every sequence lie, if
    they are not simply its own tokens; its queries belong to the last of them. With
    ``sequence_parallel`` T are this rank's part of ``num_tokens``; the boundaries lie in all of
    them.
    """
    if dropout:
        raise ValueError(f"attention dropout is {dropout}: a policy gradient needs it to be 0")
    q, k, v = query[0], key[0], value[0]
    if sequence_parallel is not None:
        q, k, v = (sequence_parallel.to_heads(x, num_tokens) for x in (q, k, v))
    if key_index is not None:
        k, v = k[:, key_index], v[:, key_index]
    boundaries, longest = (cu_seq_lens_q, cu_seq_lens_k), (max_length_q, max_length_k)
    # The kernel for sequences of different lengths is CUDA's alone, and takes 16-bit types only.
    attend = _varlen if query.is_cuda and query.dtype.itemsize == 2 else _padded
    out = attend(q, k, v, boundaries, longest, scaling, sliding_window)
    if sequence_parallel is not None:
        out = sequence_parallel.to_tokens(out)
    return out[None], None


def _varlen(
    query: Float[Tensor, "H T d"],
    key: Float[Tensor, "h K d"],
    value: Float[Tensor, "h K d"],
    boundaries: tuple[Int[Tensor, "S1"], Int[Tensor, "S1"]],
    longest: tuple[int, int],
    scaling: float | None,
    window: int | None,
) -> Float[Tensor, "T H d"]:
    from torch.nn.attention.varlen import varlen_attn

    out = varlen_attn(
        query.transpose(0, 1),
        key.transpose(0, 1),
        value.transpose(0, 1),
        *boundaries,
        *longest,
        scale=scaling,
        # Causal, aligned at the end: the last query sees all keys.
        window_size=(window - 1 if window else -1, 0),
        **_grouped(),
    )
    assert isinstance(out, Tensor)  # no auxiliary output was asked for
    return out


def with_prefixes(
    cu_seqlens: Int[Tensor, "S1"], prefix: Int[Tensor, "S 2"]
) -> tuple[Int[Tensor, "K"], Int[Tensor, "S1"]]:
    """Keys of sequences with prefixes, and where each sequence's keys begin and end among them.

    Args:
        cu_seqlens: boundaries of the sequences' own tokens in T.
        prefix: [start, end) in T of the tokens before them; empty where there are none.
    """
    start = torch.stack([prefix[:, 0], cu_seqlens[:-1]], 1)
    length = torch.stack([prefix[:, 1] - prefix[:, 0], cu_seqlens.diff()], 1).long()
    return ranges(start.flatten(), length.flatten()), cu_seqlens_of(length.sum(1))


@cache
def _grouped() -> dict[str, Any]:
    """Before torch 2.12 fewer key heads than query heads went without saying."""
    from torch.nn.attention.varlen import varlen_attn

    return {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}


def _padded(
    query: Float[Tensor, "H T d"],
    key: Float[Tensor, "h K d"],
    value: Float[Tensor, "h K d"],
    boundaries: tuple[Int[Tensor, "S1"], Int[Tensor, "S1"]],
    longest: tuple[int, int],
    scaling: float | None,
    window: int | None,
) -> Float[Tensor, "T H d"]:
    """One SDPA call over sequences padded at their end, which a causal mask cannot see."""
    q_place, real = _places(boundaries[0], longest[0])
    k_place, _ = _places(boundaries[1], longest[1])
    repeat = query.shape[0] // key.shape[0]
    q = query[:, q_place].transpose(0, 1)  # [S H L d]
    k = key.repeat_interleave(repeat, 0)[:, k_place].transpose(0, 1)
    v = value.repeat_interleave(repeat, 0)[:, k_place].transpose(0, 1)
    if boundaries[0] is boundaries[1] and (window is None or window >= longest[0]):
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling)
    else:
        before = boundaries[1].diff() - boundaries[0].diff()  # keys of the prefix
        rows, columns = (torch.arange(n, device=query.device) for n in longest)
        distance = before[:, None, None] + rows[:, None] - columns
        visible = (distance >= 0) & (distance < (window or longest[1] + longest[0]))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=visible[:, None], scale=scaling)
    return out.transpose(1, 2)[real]


def _places(
    cu_seqlens: Int[Tensor, "S1"], longest: int
) -> tuple[Int[Tensor, "S L"], Bool[Tensor, "S L"]]:
    """Where the tokens of padded sequences come from, and which are none."""
    column = torch.arange(longest, device=cu_seqlens.device)
    real = column < cu_seqlens.diff()[:, None]
    return torch.where(real, cu_seqlens[:-1, None].long() + column, 0), real


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, lambda *_, **__: None)
