"""A checkpoint's weights become a folder that transformers reads, in one file or in many."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlvr.config import RunConfig
from rlvr.errors import RunFolderError
from rlvr.export import export
from rlvr.learner.model_folder import write_weights
from rlvr.learner.state_files import Piece, SharedState, StateFiles, write
from rlvr.loop.checkpoints import Checkpoints
from rlvr.storage import Folder


def at(path: Path) -> Folder:
    return Folder.at(str(path))


@pytest.fixture
def model(tiny_model):
    return AutoModelForCausalLM.from_pretrained(tiny_model(True), dtype=torch.float32)


@pytest.fixture
def run(tmp_path, tiny_model, model):
    """A run of one checkpoint, whose two ranks have half of every parameter each."""
    config = RunConfig()
    config.model.path, config.model.dtype = tiny_model(True), "bfloat16"
    config.data.train, config.train.steps = ["rows"], 2
    config.train.output_dir = str(tmp_path / "run")
    checkpoints = Checkpoints.of(config)
    folder = checkpoints.begin(2)
    sums = checkpoints.describe(folder, config.model)
    shapes = {name: list(p.shape) for name, p in model.named_parameters()}
    for rank in range(2):
        pieces = []
        for name, p in model.named_parameters():
            flat, half = p.detach().reshape(-1), p.numel() // 2
            own = flat[:half] if rank == 0 else flat[half:]
            pieces.append(Piece(f"fp32/{name}", rank * half, own.clone()))
        shared = SharedState(shapes) if not rank else None
        written = write(folder / "learner", rank, pieces, shared)
        sums |= {f"learner/{name}": known for name, known in written.items()}
    checkpoints.finish(folder, 2, {"stream": {}}, config, sums)
    return tmp_path / "run"


def same(folder, model) -> None:
    exported = AutoModelForCausalLM.from_pretrained(folder)
    assert exported.dtype == torch.bfloat16
    expected = model.state_dict()
    actual = exported.state_dict()
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[n], expected[n].bfloat16()) for n in expected)


def test_a_run_is_exported(run, model, tiny_model, tmp_path):
    target = tmp_path / "exports" / "model"
    script = (
        "import sys; from rlvr.export import main; main(sys.argv[1:]); "
        "assert not {'ray', 'deepspeed', 'vllm'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", script, str(run), str(target)]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "the policy after step 2, in bfloat16" in told.stdout
    same(target, model)
    ours, theirs = (AutoTokenizer.from_pretrained(f) for f in (target, tiny_model(True)))
    assert ours.get_vocab() == theirs.get_vocab()
    with pytest.raises(RunFolderError, match="already there"):
        export(at(run), target)


def test_a_run_whose_checkpoints_lie_elsewhere(run, model, tmp_path):
    elsewhere = (run / "checkpoints").rename(tmp_path / "elsewhere")
    with pytest.raises(RunFolderError, match=f"there is none in {run}/checkpoints"):
        export(at(run), tmp_path / "model")
    (run / "config.yaml").write_text(f"train: {{checkpoint_dir: {elsewhere}}}")
    export(at(run), tmp_path / "model")
    same(tmp_path / "model", model)
    shutil.rmtree(elsewhere)
    with pytest.raises(RunFolderError, match=f"there is none in {elsewhere}"):
        export(at(run), tmp_path / "another")


def test_many_files(run, model, tmp_path):
    export(at(run / "checkpoints" / "step_000002"), tmp_path / "whole")
    for file in (tmp_path / "whole").glob("*.safetensors"):
        file.unlink()
    state = StateFiles(at(run / "checkpoints" / "step_000002" / "learner"))
    write_weights(state, torch.bfloat16, tmp_path / "whole", shard=10_000)
    assert len(list((tmp_path / "whole").glob("model-*-of-*.safetensors"))) > 2
    same(tmp_path / "whole", model)


def test_nothing_to_export(tmp_path):
    with pytest.raises(RunFolderError, match="neither a checkpoint nor a run"):
        export(at(tmp_path), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_damaged_checkpoint_leaves_nothing(run, tmp_path):
    next(run.glob("checkpoints/*/learner/rank_00001.safetensors")).unlink()
    with pytest.raises(RunFolderError, match="rank_00001"):
        export(at(run), tmp_path / "model")
    assert not list(tmp_path.glob("model*"))
