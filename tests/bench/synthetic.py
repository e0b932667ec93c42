"""Random models, and verified groups of random tokens, of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from rlvr.types import Group, Outcome, Prompt, Response, Sample, Verdict


def save_qwen3(
    folder: str | Path, hidden: int, layers: int, vocabulary: int, dtype: str = "float32"
) -> int:
    """Write a Hugging Face folder of a tied model with heads of 64; returns its parameters."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden // 64),
        num_key_value_heads=max(1, hidden // 128),
        head_dim=64,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    model = Qwen3ForCausalLM(config).to(getattr(torch, dtype))
    model.save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def verified_groups(
    count: int, size: int, response: int, vocabulary: int, prompt: int = 16
) -> tuple[list[Group], np.ndarray]:
    """``count`` groups of ``size`` responses, every other one correct, and their advantages."""
    dice = np.random.default_rng(0)

    def words(length: int) -> np.ndarray:
        return dice.integers(2, vocabulary, length).astype(np.int32)

    verdicts = [Verdict(0.0, Outcome.INCORRECT), Verdict(1.0, Outcome.CORRECT)]
    logp = np.full(response, -np.log(vocabulary), np.float32)
    version = np.zeros(response, np.int32)
    groups = [
        Group(
            Prompt(str(g), words(prompt).tolist(), "", "", "exact"),
            [
                Sample(Response(words(response), logp, version, "stop"), "", verdicts[i % 2])
                for i in range(size)
            ],
        )
        for g in range(count)
    ]
    return groups, np.resize([-1.0, 1.0], count * size)
