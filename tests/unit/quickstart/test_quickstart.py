"""What ``python -m rlvr.quickstart`` writes. Its training is replaced: it takes half a minute."""

from __future__ import annotations

import json
from itertools import islice

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlvr.config import DataConfig
from rlvr.data.dataset import load_dataset
from rlvr.errors import WarmUpError
from rlvr.quickstart import __main__ as entry
from rlvr.quickstart.warmup import Skill, WarmUp


@pytest.fixture
def read(monkeypatch):
    """The problems that the base model has read."""
    problems = []

    def read_only(model, tokenizer, corpus, held_out):
        problems.extend(problem for problem, _ in islice(corpus, 8000))
        return WarmUp(Skill(0.3, 0.3, 0.7), steps=200, seconds=1.23)

    monkeypatch.setattr(entry, "warm_up", read_only)
    return problems


def problems_of(path):
    return [json.loads(line)["problem"] for line in path.read_text().splitlines()]


def test_held_out_problems_are_never_seen(tmp_path, read):
    entry.quickstart(tmp_path, seed=3)
    splits = [problems_of(tmp_path / "eval.jsonl"), problems_of(tmp_path / "train.jsonl"), read]
    assert [len(split) for split in splits] == [256, 4096, 8000]
    keys = [tuple(sorted(p.split("+"))) for split in splits for p in split]
    assert len(set(keys)) == len(keys)


def test_the_seed_decides(tmp_path, read):
    for name, seed in [("a", 5), ("b", 5), ("c", 6)]:
        entry.quickstart(tmp_path / name, seed)

    def files(name):
        folder = tmp_path / name
        paths = ["train.jsonl", "eval.jsonl", "model/model.safetensors"]
        return [(folder / path).read_bytes() for path in paths]

    assert files("a") == files("b")
    assert all(x != y for x, y in zip(files("a"), files("c"), strict=True))


def test_the_folder_is_an_ordinary_model_and_data_set(tmp_path, read):
    report = entry.quickstart(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert model.config.model_type == "qwen3"
    assert model.dtype == torch.float32
    assert 1e6 <= model.num_parameters() == report["parameters"] <= 3e6
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert json.loads((tmp_path / "warmup.json").read_text()) == report
    assert {"accuracy", "avg_at_8", "pass_at_8", "steps", "seconds"} <= report.keys()

    config = DataConfig(train=[str(tmp_path / "train.jsonl")], max_prompt_tokens=16)
    data = load_dataset(config.train, config, tokenizer)
    assert len(data.prompts) == 4096 and not data.bad_rows and not data.repeated
    for prompt in data.prompts[:100]:
        a, b = prompt.text.strip().split("+")
        assert int(prompt.answer) == int(a) + int(b)
        assert prompt.text == tokenizer.decode(prompt.token_ids)


def test_a_failed_warm_up_ends_the_program_with_its_reason(tmp_path, monkeypatch):
    def fail(*_):
        raise WarmUpError("missed")

    monkeypatch.setattr(entry, "warm_up", fail)
    monkeypatch.setattr("sys.argv", ["quickstart", "--output", str(tmp_path)])
    with pytest.raises(SystemExit, match="missed"):
        entry.main()
