"""What the layers keep, counted by hand for the layers of Qwen3-8B in bfloat16."""

from __future__ import annotations

import pytest

from rlvr.config import ModelConfig
from rlvr.plan.activations import activations
from rlvr.plan.shape import shape_of

TOKENS = 4096
D, F, Q, KV = 4096, 12288, 4096, 1024


@pytest.fixture(scope="module")
def shape():
    return shape_of(ModelConfig(path="Qwen/Qwen3-8B-Base"))


def kept(shape, **settings) -> float:
    settings = {"backward": True, "checkpointing": False, "padded": False, **settings}
    return activations(shape, TOKENS, "bfloat16", **settings).kept / TOKENS


def test_without_checkpointing_everything_that_a_backward_reads(shape) -> None:
    norms = 2 * (4 + 2 + 2) * D  # fp32 input, rounded, weighted
    heads = (4 + 2) * (Q + KV)  # norms of queries and keys
    attention = 2 * (Q + KV + KV + Q)  # inputs and output
    mlp = 2 * 4 * F  # gate, silu(gate), up, their product
    assert kept(shape) == pytest.approx(36 * (norms + heads + attention + mlp), rel=0.02)


def test_with_checkpointing_the_input_of_every_layer(shape) -> None:
    final_norm = (4 + 2 + 2) * D
    assert kept(shape, checkpointing=True) == pytest.approx(36 * 2 * D + final_norm, rel=0.02)


def test_without_a_backward_one_layer_at_a_time(shape) -> None:
    found = activations(
        shape, TOKENS, "bfloat16", backward=False, checkpointing=False, padded=False
    )
    assert found.kept < 5 * 2 * D * TOKENS
    assert found.working >= 3 * 2 * F * TOKENS  # gate, up and their product


def test_memory_grows_with_the_tokens(shape) -> None:
    short, long = (
        activations(shape, n, "bfloat16", backward=True, checkpointing=True, padded=False).kept
        for n in (TOKENS, 2 * TOKENS)
    )
    assert long == pytest.approx(2 * short, rel=0.01)


def test_attention_without_a_gpu_keeps_copies_of_all_heads(shape) -> None:
    more = kept(shape, padded=True) - kept(shape)
    assert more == pytest.approx(36 * 2 * (2 * (Q - KV) + Q), rel=0.05)  # keys, values, output
