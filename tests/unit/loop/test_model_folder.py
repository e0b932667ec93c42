"""Model folders that are not what they should be: one error that names the file, before engines."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, Qwen3MoeConfig

from rlvr.config import RunConfig
from rlvr.errors import ConfigError
from rlvr.loop.named_files import damaged_weights, named_files
from rlvr.loop.tokenizer import check_model, load_tokenizer, stop_token_ids
from rlvr.types import Prompt

DAMAGED = [b"", b"[]", b"null", b"{", b"\xff\xfe\x00", b'{"model": 3, "eos_token_id": "x"}']


@pytest.fixture
def folder(tiny_model, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_model(True), tmp_path / "model"))


def read(folder: Path, *prompts: Prompt) -> None:
    config = RunConfig()
    config.model.path = str(folder)
    tokenizer = load_tokenizer(config)
    stop_token_ids(config, tokenizer)
    check_model(config, tokenizer, prompts)


def test_a_whole_folder_is_read(folder):
    read(folder, Prompt("a", [127], "", "", "exact"))
    assert not damaged_weights(folder)


@pytest.mark.parametrize("content", DAMAGED, ids=repr)
@pytest.mark.parametrize(
    "name", ["tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json"]
)
def test_a_damaged_file_is_read_or_named(folder, name, content):
    (folder / name).write_bytes(content)
    try:
        read(folder)
    except ConfigError as error:
        assert str(folder) in str(error)


def test_adapters_that_the_model_cannot_have(folder):
    config = RunConfig()
    config.model.path, config.data.train = str(folder), []
    config.learner.lora.rank = 4
    assert not named_files(config)
    config.learner.lora.targets = ["q_proj", "gate_prj"]
    [told] = named_files(config)
    assert "learner.lora.targets" in told and "no linear layer gate_prj" in told
    assert "'gate_proj'" in told
    Qwen3MoeConfig().save_pretrained(folder)
    [told] = named_files(config)
    assert "learner.lora.rank=4" in told and "experts" in told


def test_a_folder_without_a_tokenizer_is_named(folder):
    for file in folder.glob("*token*"):
        file.unlink()
    with pytest.raises(ConfigError, match=r"model\.tokenizer: .*has no tokenizer"):
        read(folder)


def test_another_models_tokenizer_is_told_by_its_tokens(folder):
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"vocab_size": 128', '"vocab_size": 100'))
    read(folder, Prompt("a", [99], "", "", "exact"))
    with pytest.raises(ConfigError, match="prompt b has the token 100, but the model .* has 100"):
        read(folder, Prompt("b", [5, 100], "", "", "exact"))


def test_more_tokens_than_the_model_has_places_for(folder):
    config = RunConfig()
    config.model.path = str(folder)
    places = AutoConfig.from_pretrained(folder).max_position_embeddings
    tokenizer = load_tokenizer(config)
    config.rollout.engine = {"max_model_len": places}
    check_model(config, tokenizer, [])
    config.rollout.engine = {"max_model_len": places + 1}
    with pytest.raises(ConfigError, match=rf"{places + 1} tokens .*has {places} places"):
        check_model(config, tokenizer, [])


@settings(max_examples=30)
@given(data=st.data())
def test_truncated_weights_are_named(tiny_model, tmp_path_factory, data):
    content = (Path(tiny_model(True)) / "model.safetensors").read_bytes()
    file = tmp_path_factory.mktemp("cut") / "model.safetensors"
    file.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    [told] = damaged_weights(file.parent)
    assert f"model.path: {file} is damaged" in told
