"""A checkpoint of adapters becomes the merged model, or PEFT's folder; never on another base."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from rlvr.config import LoraConfig, RunConfig
from rlvr.errors import ConfigError, RunFolderError
from rlvr.export import export
from rlvr.learner.lora import add_adapters, weights_of
from rlvr.learner.sharded_state import bit_sum
from rlvr.learner.state_files import Piece, SharedState, write
from rlvr.loop.checkpoints import Checkpoints
from rlvr.storage import Folder

LORA = LoraConfig(rank=3, alpha=12.0, targets=["q_proj", "down_proj"])


def checkpoint(model, config: RunConfig) -> None:
    checkpoints = Checkpoints.of(config)
    folder = checkpoints.begin(2)
    sums = checkpoints.describe(folder, config.model)
    named = dict(model.named_parameters())
    trained = {name: p.detach().float() for name, p in named.items() if p.requires_grad}
    frozen = bit_sum([p for p in named.values() if not p.requires_grad], torch.device("cpu"))
    shared = SharedState({k: list(p.shape) for k, p in trained.items()}, frozen=frozen)
    pieces = [Piece(f"fp32/{k}", 0, p.reshape(-1)) for k, p in trained.items()]
    written = write(folder / "learner", 0, pieces, shared)
    sums |= {f"learner/{name}": known for name, known in written.items()}
    checkpoints.finish(folder, 2, {"stream": {}}, config, sums)


@pytest.fixture(params=["float32", "bfloat16"])
def run(request, tmp_path, tiny_model):
    """A run's folder, its model with adapters, and the base's folder."""
    base = Path(shutil.copytree(tiny_model(True), tmp_path / "base"))
    dtype = getattr(torch, request.param)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    add_adapters(model, LORA, seed=1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_()
    config = RunConfig()
    config.model.path, config.model.dtype = str(base), request.param
    config.data.train, config.train.steps, config.learner.lora = ["rows"], 2, LORA
    config.train.output_dir = str(tmp_path / "run")
    checkpoint(model, config)
    return Folder.at(str(tmp_path / "run")), model, base


def test_the_merged_model_is_what_engines_were_given(run, tmp_path):
    source, model, base = run
    assert "the policy after step 2" in export(source, tmp_path / "merged")
    found = load_file(tmp_path / "merged" / "model.safetensors")
    published = {
        name: adapter.added_to(p.detach()) if adapter else p
        for name, (p, adapter) in weights_of(model).items()
    }
    assert found.keys() == published.keys()
    assert all(torch.equal(found[name], w) for name, w in published.items())
    before = load_file(base / "model.safetensors")
    changed = {name for name in found if not torch.equal(found[name], before[name].to(model.dtype))}
    assert len(changed) == 4 and all(n.split(".")[-2] in LORA.targets for n in changed)


def test_peft_loads_the_adapters(run, tmp_path):
    source, model, base = run
    assert "the adapters after step 2" in export(source, tmp_path / "adapter", adapter=True)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=model.dtype)
    loaded = PeftModel.from_pretrained(plain, tmp_path / "adapter", autocast_adapter_dtype=False)
    ids = torch.arange(3, 20)[None]
    assert torch.equal(loaded.eval()(ids).logits, model.eval()(ids).logits)


def test_another_base_is_refused(run, tmp_path):
    source, _, base = run
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"weights are not those .*--adapter"):
        export(source, tmp_path / "merged")
    shutil.rmtree(base)
    with pytest.raises(ConfigError, match=r"is not here.*--adapter"):
        export(source, tmp_path / "merged")
    assert not list(tmp_path.glob("merged*"))
    export(source, tmp_path / "adapter", adapter=True)


def test_a_run_without_adapters_has_none_to_export(tmp_path, tiny_model):
    config = RunConfig()
    config.model.path, config.train.output_dir = tiny_model(True), str(tmp_path / "run")
    config.data.train, config.train.steps = ["rows"], 2
    checkpoint(AutoModelForCausalLM.from_pretrained(tiny_model(True)), config)
    with pytest.raises(RunFolderError, match="Leave out --adapter"):
        export(Folder.at(str(tmp_path / "run")), tmp_path / "adapter", adapter=True)
