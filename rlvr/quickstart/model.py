"""A Qwen3 of a million parameters."""

import torch
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM


def build_model(tokenizer: PreTrainedTokenizerFast, longest: int = 128) -> Qwen3ForCausalLM:
    """Fresh fp32 weights from torch's global generator, for ``longest`` tokens of a vocabulary."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=256,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=32,  # the smallest that vLLM's CPU attention has
        intermediate_size=512,
        max_position_embeddings=longest,
        tie_word_embeddings=True,
        # At this width the usual 0.02 makes the first hundred steps of training idle.
        initializer_range=0.06,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype=torch.float32,
    )
    return Qwen3ForCausalLM(config)
