"""Credit on given responses: what methods say of them, beside the formulas on plain logits."""

from __future__ import annotations

import inspect
import json
import math
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import rlvr
from rlvr.algorithm.credit.delta import delta_coefficients
from rlvr.algorithm.credit.thr import thr_coefficients, thr_scores
from rlvr.errors import ConfigError, DataError
from rlvr.explain.__main__ import main

TEMPERATURE = 0.8


@pytest.fixture(scope="module")
def folder(tiny_model, tmp_path_factory) -> str:
    """The tiny model, with a tokenizer that finds words between spaces."""
    path = tmp_path_factory.mktemp("model") / "words"
    shutil.copytree(tiny_model(True), path)
    words = Tokenizer(WordLevel({f"w{i:03}": i for i in range(128)}, unk_token="w002"))
    words.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="w001", pad_token="w000"
    ).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def model(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
def rows(seed):
    """Two groups, their rows in any order; each has a right and a wrong response."""
    generator = np.random.default_rng(seed)

    def words(least: int, most: int) -> str:
        return " ".join(
            f"w{i:03}" for i in generator.integers(3, 128, generator.integers(least, most))
        )

    prompts = [words(2, 6), words(2, 6) + " w007"]
    made = [
        {"prompt": prompts[g], "response": words(3, 12), "reward": float(i % 2)}
        for g in range(2)
        for i in range(4)
    ]
    return [made[i] for i in generator.permutation(len(made))]


@torch.no_grad()
def literal(model, tokenizer, row):
    """h_t and the next-token distributions of a response's tokens, from the model as it is."""
    prompt, response = (tokenizer(row[key])["input_ids"] for key in ("prompt", "response"))
    out = model(torch.tensor([prompt + response]), output_hidden_states=True)
    at = slice(len(prompt) - 1, -1)
    probability = (out.logits[0, at].double() / TEMPERATURE).softmax(-1)
    return out.hidden_states[-1][0, at].double(), probability, torch.tensor(response)


def in_any(responses, vocabulary: int):
    """1 for the tokens that occur in a group's responses: V* of THR."""
    return torch.bincount(torch.cat(responses), minlength=vocabulary).clamp(max=1)


def test_coefficients_are_those_of_the_formulas(model, tokenizer, rows):
    methods = ["delta", {"name": "thr", "p": 0.2}, "uniform"]
    found = rlvr.explain(model, tokenizer, rows, methods, temperature=TEMPERATURE)
    assert list(found.coefficients) == ["delta", "thr(p=0.2)", "uniform"]
    groups = [
        [r for r in rows if r["prompt"] == p] for p in dict.fromkeys(r["prompt"] for r in rows)
    ]
    ordered = [row for group in groups for row in group]
    assert [r["response"] for r in found.rows] == [row["response"] for row in ordered]
    rewards = np.array([[row["reward"] for row in group] for group in groups])
    advantages = (rewards - rewards.mean(1, keepdims=True)) / (
        rewards.std(1, ddof=1)[:, None] + 1e-6
    )
    assert found.advantages == pytest.approx(advantages.ravel())

    hidden, errors, proxies, owner = [], [], [], []
    for i, row in enumerate(ordered):
        h, p, y = literal(model, tokenizer, row)
        own = p[torch.arange(len(y)), y]
        hidden.append(h)
        proxies.append((1 - own)[:, None] * h)
        beside = [literal(model, tokenizer, other)[2] for other in groups[i // 4]]
        errors.append((torch.nn.functional.one_hot(y, p.shape[1]) - p) * in_any(beside, p.shape[1]))
        owner += [i] * len(y)
    sequence = torch.tensor(owner)
    correct = torch.tensor([row["reward"] > 0 for row in ordered])
    group = sequence // 4
    a = torch.from_numpy(found.advantages)[sequence]
    delta = delta_coefficients(torch.cat(proxies), a)
    scores = thr_scores(torch.cat(hidden), torch.cat(errors), correct[sequence], group)
    thr = thr_coefficients(scores, sequence, correct[sequence], group, p=0.2)
    for name, expected in (("delta", delta), ("thr(p=0.2)", thr)):
        told = np.concatenate(found.coefficients[name])
        assert told == pytest.approx(expected.numpy(), rel=1e-3, abs=1e-4), name
    assert all((c == 1).all() for c in found.coefficients["uniform"])
    assert delta.std() > 0.01 and [len(c) for c in found.coefficients["delta"]] == [
        len(row["tokens"]) for row in found.rows
    ]


def test_the_model_is_left_as_it_was(model, tokenizer, rows):
    ids = torch.tensor([[5, 6, 7]])
    before, head, attention = model(ids).logits, model.lm_head, model.config._attn_implementation
    model.train()
    with pytest.raises(ConfigError, match="Did you mean 'delta'"):
        rlvr.explain(model, tokenizer, rows, "delt")
    assert model.training
    rlvr.explain(model.eval(), tokenizer, rows, "oar_g")
    assert model.lm_head is head and model.config._attn_implementation == attention
    assert not model.training and torch.equal(model(ids).logits, before)
    assert all(p.grad is None for p in model.parameters())


def test_it_is_a_function_and_a_module(model):
    parameters = list(inspect.signature(rlvr.explain).parameters)
    assert parameters[:4] == ["model", "tokenizer", "responses", "credit"]
    assert inspect.ismodule(rlvr.explain) and rlvr.explain.Explanation
    with pytest.raises(AttributeError):
        rlvr.nothing  # noqa: B018


def test_a_notebook_needs_neither_ray_nor_deepspeed(folder, tmp_path):
    program = f"""
import sys
for name in ("ray", "deepspeed", "vllm", "hydra", "wandb"):
    sys.modules[name] = None
import rlvr
from transformers import AutoModelForCausalLM, AutoTokenizer
model, tokenizer = (kind.from_pretrained({folder!r})
                    for kind in (AutoModelForCausalLM, AutoTokenizer))
rows = [dict(prompt="w005", response=f"w006 w00{{i}}", reward=i) for i in range(2)]
found = rlvr.explain(model, tokenizer, rows)
found.save({str(tmp_path / "page.html")!r})
assert "<iframe" in found._repr_html_()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
    assert (tmp_path / "page.html").stat().st_size > 50_000


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"prompt": None}, "'prompt' must be text, not NoneType"),
        ({"response": 5}, "'response' must be text, not int"),
        ({"response": ""}, "the response has no tokens"),
        ({"reward": "1"}, "'reward' must be a number, not '1'"),
        ({"reward": math.nan}, "'reward' must be a number, not nan"),
        ({"reward": True}, "'reward' must be a number, not True"),
        ({"outcome": "good"}, "'outcome' must be one of correct, incorrect"),
        ({"response_token_ids": [5, 999]}, "the response has the token 999, but the model has 128"),
        ({"response_token_ids": ["w005"]}, "'response_token_ids' must be a list of token ids"),
    ],
)
def test_a_bad_row_is_named(model, tokenizer, rows, changed, told):
    rows[2] |= changed
    with pytest.raises(DataError, match=f"1 of 8 rows cannot be used:\n  row 3: {told}"):
        rlvr.explain(model, tokenizer, rows)


def test_what_lacks_a_column_or_a_difference_is_told(model, tokenizer, rows):
    with pytest.raises(DataError, match="it has no 'prompt'; there are text"):
        rlvr.explain(model, tokenizer, [{"text": "w005"}])
    with pytest.raises(DataError, match="no rows"):
        rlvr.explain(model, tokenizer, [])
    with pytest.raises(DataError, match="every advantage is 0"):
        rlvr.explain(model, tokenizer, [row | {"reward": 1} for row in rows])
    asking = {"name": "oar_p", "engine": "rollout", "mode": "last"}
    with pytest.raises(ConfigError, match="credit.engine=learner"):
        rlvr.explain(model, tokenizer, rows, asking)


def test_the_command_writes_json_and_a_page(folder, rows, tmp_path, capsys):
    file, output = tmp_path / "rows.jsonl", tmp_path / "found"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [f"model.path={folder}", "model.dtype=float32", f"responses={file}"]
    main([*words, "credit=delta,entropy_top", f"output={output}"])
    assert "8 responses to 2 prompts" in capsys.readouterr().out
    found = json.loads(output.with_suffix(".json").read_text())
    assert found["methods"] == ["delta", "entropy_top"]
    for row in found["responses"]:
        assert len(row["tokens"]) == len(row["coefficient"]["delta"])
        assert "".join(row["tokens"]).split() == row["response"].split()
    assert "</html>" in output.with_suffix(".html").read_text()
    with file.open("a") as lines:
        lines.write("{not json\n")
    with pytest.raises(SystemExit, match="rows.jsonl, row 9: not valid JSON"):
        main([*words, "credit=delta"])
    with pytest.raises(SystemExit, match="responses: must be set"):
        main(words[:1])
    with pytest.raises(SystemExit, match="no such key.*temperature"):
        main([*words, "rollout.temprature=2"])
