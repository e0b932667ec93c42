"""A random model whose text earns rewards, and what trains it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def guesser(save_qwen3, tmp_path_factory):
    r"""Folder of a model that writes ``\boxed{0|1|2}`` now and then, and of problems for it.

    Now and then it asks for a search, too, in a word.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("guesser")
    words = ["<pad>", "</s>"]
    words += [f"\\boxed{{{i % 3}}}{' ' * (i // 3)}" for i in range(15)]
    words += ["<search>w3 w5</search>", "<search>w11</search>", *"()123", "nothing", "found"]
    words += [f"w{i}" for i in range(64 - len(words))]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    save_qwen3(
        folder,
        vocab_size=64,
        max_position_embeddings=128,
        tie_word_embeddings=True,
        eos_token_id=1,
        pad_token_id=0,
        initializer_range=0.1,
    )
    rows = [{"problem": f"w{i} w{i + 1} w{i + 2}", "answer": str(i % 3)} for i in range(32)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


@pytest.fixture(scope="session")
def guessing(guesser) -> list[str]:
    """The overrides of every run on the guesser."""
    return [
        f"model.path={guesser}",
        "model.dtype=float32",
        f"data.train=[{guesser}/rows.jsonl]",
        "data.template=none",
        "environment.plain_template='{observation}'",  # its tokenizer knows no white space
        "data.verifier=exact",
        "data.max_prompt_tokens=8",
        "rollout.max_response_tokens=12",
        "telemetry.wandb=disabled",
        "telemetry.progress=false",
    ]


@pytest.fixture
def command_line(guessing):
    """``command_line(*overrides)``: ``python -m rlvr.train`` on the guesser, to its end."""

    def call(*overrides: str, timeout_s: float, **environment: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "rlvr.train", *overrides, *guessing],
            cwd=ROOT,
            env={**os.environ, "RAY_ADDRESS": "", **environment},
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    return call
