"""An engine before, in and after its sleep: python tests/gpu/sleep.py FOLDER"""

import json
import sys
import time

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM
from vllm import LLM, SamplingParams


def used_gb() -> float:
    """Of the GPU, by everybody."""
    free, total = torch.cuda.mem_get_info()
    return (total - free) / 1e9


def main(folder: str) -> None:
    config = Qwen3Config(
        vocab_size=32_000,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=16,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=64,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    engine = LLM(
        folder,
        dtype="bfloat16",
        enable_sleep_mode=True,
        enforce_eager=True,
        gpu_memory_utilization=0.6,
        max_model_len=512,
        skip_tokenizer_init=True,
    )
    sampling = SamplingParams(temperature=0.0, max_tokens=32, ignore_eos=True, detokenize=False)

    def sampled() -> list[list[int]]:
        prompts = [{"prompt_token_ids": [7, 8, 9 + i]} for i in range(8)]
        outputs = engine.generate(prompts, sampling, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]

    first, before = sampled(), used_gb()
    started = time.perf_counter()
    engine.sleep(level=2)  # weights and KV cache are gone, as in colocated training
    slept, asleep = time.perf_counter(), used_gb()
    engine.wake_up(tags=["weights"])
    engine.collective_rpc("reload_weights")
    engine.wake_up(tags=["kv_cache"])
    woken, awake = time.perf_counter(), used_gb()
    print(
        json.dumps(
            {
                "same": sampled() == first,
                "before_gb": before,
                "asleep_gb": asleep,
                "awake_gb": awake,
                "sleep_s": slept - started,
                "wake_s": woken - slept,
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main(sys.argv[1])
