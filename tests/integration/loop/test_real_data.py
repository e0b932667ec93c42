"""Real rows through two whole training steps: sampled, verified, updated, published."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rlvr.config import RunConfig

DATA = Path(__file__).parents[2] / "data"
VOCABULARY = 8192
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def model(save_qwen3, tmp_path_factory) -> str:
    """A Qwen3 of random weights with a BPE tokenizer trained on the data's own text."""
    folder = tmp_path_factory.mktemp("bpe_model")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    rows = pq.read_table(DATA / "dapo_math_2000.parquet", columns=["prompt"]).to_pylist()
    bpe.train_from_iterator(
        (row["prompt"][0]["content"] for row in rows),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    assert bpe.get_vocab_size() == VOCABULARY
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    save_qwen3(
        folder,
        vocab_size=VOCABULARY,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return str(folder)


def test_two_steps_on_dapo_math_rows(train, model, tmp_path):
    config = RunConfig()
    config.model.path, config.model.dtype = model, "float32"
    config.data.train = [str(DATA / "dapo_math.parquet")]
    config.data.max_prompt_tokens = 512
    config.cluster.gpus_per_node = 0
    config.rollout.group_size = 4
    config.rollout.max_response_tokens = 24
    config.rollout.temperature = 0.9
    config.learner.ranks, config.learner.zero_stage, config.learner.lr = 2, 3, 1e-3
    config.train.steps, config.train.prompts_per_step = 2, 4
    config.learner.entropy_bonus = 0.1  # random text earns no reward; this gives it a gradient
    config.train.output_dir = str(tmp_path / "run")
    config.telemetry.wandb = "disabled"
    config.objective = {"name": "dapo"}
    train(config)

    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [row for row in map(json.loads, lines) if "rollout/reward_mean" in row]
    assert [row["step"] for row in steps] == [1, 2]
    for row in steps:
        assert row["rollout/responses"] == 16
        outcomes = [row[f"verifier/{o}"] for o in ("correct", "incorrect", "unparseable")]
        assert sum(outcomes) == pytest.approx(1.0)
        assert row["mismatch/logp_max"] < 2e-5
        assert row["staleness/max"] == 0, "the second step must sample from the published policy"
    for step in (1, 2):
        table = pq.read_table(tmp_path / "run" / "responses" / f"step_{step:06d}.parquet")
        assert table.num_rows == 16
    before = load_file(Path(model) / "model.safetensors")
    after = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert set(before) == set(after)
    changed = sum(not torch.equal(before[k], after[k]) for k in before)
    assert changed > len(before) / 2
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["steps"] == 2 and summary["train_seconds"] > 0
