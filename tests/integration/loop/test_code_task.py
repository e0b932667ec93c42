"""Writing programs as a task: sampled, run in the real sandbox, rewarded, learned from."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import PreTrainedTokenizerFast

from rlvr.hydra_config import CONFIG_PATH, register, run_config
from rlvr.quickstart import warmup
from rlvr.quickstart.model import build_model
from rlvr.quickstart.programs import Task, programs
from rlvr.task import Outcome

WORDS = r"\d|[a-z]+|\"\"\"| {4}|\s|[^\w\s]"
STEPS, PROMPTS, GROUP = 3, 8, 8


def tokenizer_of(tasks: list[Task]) -> PreTrainedTokenizerFast:
    """One token a word or a sign of the tasks' own text."""
    split = pre_tokenizers.Split(Regex(WORDS), "isolated")
    text = "".join(t.problem + t.solution for t in tasks) + "0123456789y"
    words = ["<pad>", "<eos>", *sorted({word for word, _ in split.pre_tokenize_str(text)})]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(tokenizer_models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        chat_template="{% for m in messages %}{{ m['content'] }}{% endfor %}",
        clean_up_tokenization_spaces=False,
    )


def slip(solution: str, dice: random.Random) -> str:
    """What a writer of middling skill makes of it: right, wrong, failing or broken."""
    slips = [("", ""), ("\n", " * 2\n"), ("return ", "return y + "), ("\n", " +\n")]
    return solution.replace(*dice.choices(slips, [5, 2, 1, 2])[0])


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """The tasks, and a model that was shown solutions of which half are right."""
    folder = tmp_path_factory.mktemp("programs")
    training, _ = programs(folder)
    tokenizer = tokenizer_of(training)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build_model(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98))
    dice = random.Random(0)
    for step in range(50):
        shown = dice.sample(training, 16)
        solved = [warmup._lesson(t.problem, slip(t.solution, dice), tokenizer) for t in shown]
        batch = warmup._batch(solved, tokenizer)
        warmup._train(model, optimizer, 3e-3 * min(1, (step + 1) / 10), batch)
    torch.set_num_threads(threads)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder


def test_it_trains(train, base, tmp_path):
    register()
    overrides = [
        "data=humaneval_like",
        f"data.train=[{base}/train.jsonl]",
        f"data.eval=[{base}/eval.jsonl]",
        "data.max_prompt_tokens=64",
        f"model.path={base}/model",
        "model.dtype=float32",
        f"rollout.group_size={GROUP}",
        "rollout.max_response_tokens=32",
        "learner.ranks=1",
        "learner.lr=1e-3",
        f"train.steps={STEPS}",
        f"train.prompts_per_step={PROMPTS}",
        f"train.output_dir={tmp_path}/run",
        "telemetry.wandb=disabled",
    ]
    with initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        train(run_config(compose("train", overrides=overrides)))

    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [row for row in map(json.loads, lines) if "rollout/reward_mean" in row]
    assert [row["step"] for row in steps] == [1, 2, 3]
    judged = []
    for row in steps:
        table = pq.read_table(tmp_path / "run" / "responses" / f"step_{row['step']:06d}.parquet")
        responses = table.to_pylist()
        assert len(responses) == PROMPTS * GROUP
        counts = Counter(response["outcome"] for response in responses)
        for outcome in Outcome:
            assert row[f"verifier/{outcome}"] == pytest.approx(counts[outcome] / len(responses))
        assert row["staleness/max"] == 0
        assert any(response["advantage"] for response in responses), "no group has a spread"
        judged += responses

    counts = Counter(response["outcome"] for response in judged)
    assert counts.keys() == {"correct", "incorrect", "unparseable"}, counts
    for response in judged:
        right = response["outcome"] == "correct"
        assert response["reward"] == float(right)
        assert json.loads(response["components"]) == {"outcome": float(right)}
        text = response["response"]
        if text.strip() == response["answer"]:
            assert right, response
        try:
            compile(response["prompt"] + text, "program", "exec")
        except SyntaxError:
            assert response["outcome"] == "unparseable", response
        else:
            assert response["outcome"] != "unparseable", response
            assert not (right and text.startswith("    return y +")), response
    before = load_file(base / "model" / "model.safetensors")
    after = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert sum(not torch.equal(before[k], after[k]) for k in before) > len(before) / 2
