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
    return activations(shape, TOKENS, dtype="bfloat16", **settings).kept / TOKENS


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
        shape, TOKENS, dtype="bfloat16", backward=False, checkpointing=False, padded=False
    )
    assert found.kept < 5 * 2 * D * TOKENS
    assert found.working >= 3 * 2 * F * TOKENS  # gate, up and their product


def test_memory_grows_with_the_tokens(shape) -> None:
    short, long = (
        activations(
            shape, n, dtype="bfloat16", backward=True, checkpointing=True, padded=False
        ).kept
        for n in (TOKENS, 2 * TOKENS)
    )
    assert long == pytest.approx(2 * short, rel=0.01)


def test_attention_without_a_gpu_keeps_copies_of_all_heads(shape) -> None:
    more = kept(shape, padded=True) - kept(shape)
    assert more == pytest.approx(36 * 2 * (2 * (Q - KV) + Q), rel=0.05)  # keys, values, output


@pytest.mark.parametrize("rank", [0, 8])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_policy_itself_keeps_as_much(save_qwen3, tmp_path, checkpointing, rank) -> None:
    """The real forward and backward on packed sequences, counted in the same way."""
    import torch

    from rlvr.config import LearnerConfig, LoraConfig
    from rlvr.learner.policy import load_policy
    from rlvr.plan.activations import Live
    from rlvr.types import Packing

    save_qwen3(tmp_path, vocab_size=64, tie_word_embeddings=True)
    model = ModelConfig(path=str(tmp_path), dtype="float32")
    learner = LearnerConfig(gradient_checkpointing=checkpointing, lora=LoraConfig(rank))
    policy = load_policy(model, learner, 1.0, torch.device("cpu"))
    packing = Packing.of([torch.zeros(256, dtype=torch.long)] * 8)
    embedded = torch.zeros(packing.num_tokens, 64, requires_grad=not rank)
    live = Live(policy)
    with live:
        out = policy.hidden(packing, embedded)
        kept = live.now
        out.backward(torch.zeros_like(out))
    planned = activations(
        shape_of(model),
        packing.num_tokens,
        dtype="float32",
        backward=True,
        checkpointing=checkpointing,
        padded=True,
        rank=rank,
    )
    assert planned.kept == pytest.approx(kept, rel=0.1)
    assert planned.kept + planned.working == pytest.approx(live.peak, rel=0.1)
