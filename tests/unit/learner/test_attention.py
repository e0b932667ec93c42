"""Packed sequences give what each sequence alone gives."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

import rlvr.learner.attention as packed

SHAPE = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


def qwen3(**extra):
    return Qwen3ForCausalLM(Qwen3Config(**SHAPE, **extra)).double().eval()


MODELS = {
    "qwen3": lambda: qwen3(),
    "qwen3_sliding": lambda: qwen3(use_sliding_window=True, sliding_window=4, max_window_layers=1),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)).double().eval(),
}


@pytest.mark.parametrize("name", MODELS)
def test_packing_changes_nothing(name):
    model = MODELS[name]()
    lengths = [int(n) for n in torch.randint(1, 15, (5,))]
    sequences = [torch.randint(50, (n,)) for n in lengths]
    model.config._attn_implementation = "sdpa"
    alone = torch.cat([model(s[None]).logits[0] for s in sequences])

    model.config._attn_implementation = packed.NAME
    boundaries = torch.tensor([0, *lengths]).cumsum(0).int()
    together = model(
        torch.cat(sequences)[None],
        position_ids=torch.cat([torch.arange(n) for n in lengths])[None],
        use_cache=False,
        cu_seq_lens_q=boundaries,
        cu_seq_lens_k=boundaries,
        max_length_q=max(lengths),
        max_length_k=max(lengths),
    ).logits[0]
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_sequences_that_continue_others_are_what_they_are_whole(name):
    model = MODELS[name]()
    model.config._attn_implementation = "sdpa"
    own, whole, prefix, alone = [], [], [], []
    end = 0
    for _ in range(4):  # a sequence, then some that part from it somewhere, or at once
        trunk, start = torch.randint(50, (int(torch.randint(2, 14, ())),)), end
        for at in [0, *torch.randint(len(trunk), (3,)).tolist()]:
            changed = torch.cat([trunk[:at], torch.randint(50, (int(torch.randint(1, 9, ())),))])
            changed = trunk if end == start else changed
            own.append(changed[at:])
            whole.append(changed)
            prefix.append([start, start + at])
            alone.append(model(changed[None]).logits[0, at:])
            end += len(own[-1])

    model.config._attn_implementation = packed.NAME
    boundaries = torch.tensor([0, *(len(s) for s in own)]).cumsum(0).int()
    key_index, keys = packed.with_prefixes(boundaries, torch.tensor(prefix))
    assert torch.equal(torch.cat(own)[key_index], torch.cat(whole))
    positions = [torch.arange(len(w) - len(s), len(w)) for s, w in zip(own, whole, strict=True)]
    together = model(
        torch.cat(own)[None],
        position_ids=torch.cat(positions)[None],
        use_cache=False,
        cu_seq_lens_q=boundaries,
        cu_seq_lens_k=keys,
        max_length_q=max(map(len, own)),
        max_length_k=max(map(len, whole)),
        key_index=key_index,
    ).logits[0]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-9, atol=1e-9)


def test_dropout_is_refused():
    q = torch.randn(1, 2, 3, 4)
    with pytest.raises(ValueError, match="dropout"):
        packed.packed_attention(
            torch.nn.Identity(),
            q,
            q,
            q,
            None,
            cu_seq_lens_q=torch.tensor([0, 3]),
            cu_seq_lens_k=torch.tensor([0, 3]),
            max_length_q=3,
            max_length_k=3,
            dropout=0.1,
        )
