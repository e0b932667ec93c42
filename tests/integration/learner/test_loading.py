"""Shards are filled from the files; no rank holds the whole model, not even for a moment."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from rlvr.config import RunConfig

LARGE = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 6}  # 352 MiB


def configuration(folder: Path | str, dtype: str = "float32", stage: int = 3) -> RunConfig:
    config = RunConfig()
    config.model.path, config.model.dtype = str(folder), dtype
    config.learner.zero_stage, config.learner.optimizer = stage, "sgd"
    return config


@pytest.fixture(scope="module")
def folders(tiny_model, tmp_path_factory) -> dict[str, Path]:
    """Models in one file, in many, with tied weights and without."""
    made = {name: Path(tiny_model(name == "tied")) for name in ("tied", "untied")}
    made["many"] = tmp_path_factory.mktemp("many")
    shutil.copytree(made["untied"], made["many"], dirs_exist_ok=True)
    (made["many"] / "model.safetensors").unlink()
    model = AutoModelForCausalLM.from_pretrained(made["untied"], dtype=torch.float32)
    model.generation_config.eos_token_id = [1, 5]
    model.save_pretrained(made["many"], max_shard_size="100KB")
    assert len(list(made["many"].glob("*.safetensors"))) > 2
    return made


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["tied", "untied", "many"])
def test_shards_hold_what_the_files_hold(run_ranks, folders, tmp_path, name, dtype):
    case = ("loading", configuration(folders[name], dtype), str(tmp_path))
    saved = run_ranks(2, {"case": case})
    plain = AutoModelForCausalLM.from_pretrained(folders[name], dtype=getattr(torch, dtype))
    expected = dict(plain.named_parameters())
    total = sum(p.nbytes for p in plain.parameters())
    for rank in saved:
        loaded = rank["case"]
        assert loaded["names"] == list(expected)
        for key, value in expected.items():
            assert loaded["weights"][key].dtype == value.dtype
            assert torch.equal(loaded["weights"][key], value), key
        for key, value in plain.named_buffers():
            assert torch.equal(loaded["buffers"][key], value), key
        assert loaded["held"] < 0.52 * total
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=getattr(torch, dtype))
    assert all(torch.equal(again.get_parameter(k), v) for k, v in expected.items())
    assert again.generation_config.eos_token_id == plain.generation_config.eos_token_id


def test_a_rank_needs_its_shard_and_one_layer(run_ranks, tmp_path):
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(**LARGE, vocab_size=4096, num_attention_heads=8, num_key_value_heads=4)
    model = Qwen3ForCausalLM(config).float()
    model.save_pretrained(tmp_path, max_shard_size="100MB")
    layer = sum(p.nbytes for p in model.model.layers[0].parameters())
    total = sum(p.nbytes for p in model.parameters())
    del model
    for rank in run_ranks(2, {"case": ("loading", configuration(tmp_path))}):
        loaded = rank["case"]
        print(f"total {total >> 20} layer {layer >> 20}", {k: v >> 20 for k, v in loaded.items()})
        assert loaded["held"] < 0.52 * total
        assert loaded["peak"] <= 1.3 * loaded["held"] + layer


def refusal(run_ranks, folder: Path) -> str:
    replies = {
        rank["case"]["refusal"]
        for rank in run_ranks(2, {"case": ("loading", configuration(folder))})
    }
    assert len(replies) == 1, "the ranks disagree, so some would wait for the others"
    return replies.pop()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.pop("model.norm.weight"), "the tensor model.norm.weight is in none"),
        (
            lambda w: w.update({"model.norm.weight": torch.ones(3)}),
            r"model.safetensors holds model.norm.weight as [3], but the model's configuration "
            "makes it [64]",
        ),
        (
            lambda w: w.update({"model.extra.weight": torch.ones(3)}),
            "model.safetensors holds model.extra.weight, which this architecture does not have",
        ),
    ],
    ids=["missing", "mismatching", "unexpected"],
)
def test_other_tensors_than_the_model_has_are_refused(run_ranks, folders, tmp_path, change, says):
    shutil.copytree(folders["untied"], tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    change(weights)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert says in refusal(run_ranks, tmp_path)


def test_a_file_that_is_missing_or_cut_off_is_named(run_ranks, folders, tmp_path):
    shutil.copytree(folders["many"], tmp_path, dirs_exist_ok=True)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    file = tmp_path / index["weight_map"]["model.norm.weight"]
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert f"cannot read {file}" in refusal(run_ranks, tmp_path)
    file.unlink()
    assert f"names {file}, which is missing" in refusal(run_ranks, tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    assert "no model.safetensors and no model.safetensors.index.json" in refusal(
        run_ranks, tmp_path
    )
