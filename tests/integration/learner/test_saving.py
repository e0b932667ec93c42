"""What one layout of the learner saved another one goes on from, to the same next step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rlvr.config import LoraConfig, RunConfig
from rlvr.learner.state_files import StateFiles
from rlvr.storage import Folder


def configuration(folder: str, ranks: int, stage: int, **learner) -> RunConfig:
    config = RunConfig()
    config.model.path, config.model.dtype = folder, "float32"
    config.cluster.gpus_per_node = 0
    config.learner.ranks, config.learner.zero_stage, config.learner.lr = ranks, stage, 1e-2
    for key, value in learner.items():
        setattr(config.learner, key, value)
    return config


@pytest.fixture(scope="module")
def drawn(module_seed, draw_groups):
    generator = np.random.default_rng(module_seed)
    return draw_groups(generator, [[0.0, 1.0, 0.0, 1.0]] * 4)


@pytest.fixture
def go_on(tiny_model, drawn, run_ranks, tmp_path):
    """``go_on(load, save, ranks, stage, ...)``: the weights before and after a step."""

    def run(
        load, save, ranks: int, stage: int, dtype: str = "float32", model=None, **learner
    ) -> dict:
        config = configuration(model or tiny_model(True), ranks, stage, **learner)
        config.model.dtype = dtype
        folders = [None if name is None else str(tmp_path / name) for name in (load, save)]
        case = ("saving", config, *drawn, *folders)
        return run_ranks(ranks, {"case": case})[0]["case"]

    return run


def assert_close(a: dict, b: dict, tolerance: float) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=tolerance, msg=name)


def test_any_layout_goes_on_from_any_other(go_on, tmp_path):
    first = go_on(None, "a", 2, 3)
    again = go_on("a", None, 2, 3)
    assert_close(first["before"], again["before"], 0.0)
    assert_close(first["after"], again["after"], 0.0)  # the same layout: bit for bit

    second = go_on("a", "b", 1, 2)
    assert_close(first["before"], second["before"], 0.0)
    assert_close(first["after"], second["after"], 1e-6)
    third = go_on("b", "c", 2, 0)
    assert_close(second["before"], third["before"], 0.0)
    assert_close(first["after"], third["after"], 1e-6)
    fourth = go_on("c", "d", 2, 3, sequence_parallel=2)
    assert_close(first["before"], fourth["before"], 0.0)
    assert_close(first["after"], fourth["after"], 1e-6)

    for name in "abcd":  # what was passed on is the same, however it lies in the files
        files = StateFiles(Folder(str(tmp_path / name)))
        assert_close(files.weights(files.shared.shapes), first["before"], 0.0)
        assert files.kinds == ["exp_avg", "exp_avg_sq", "fp32"]
        assert files.shared.scalars == {"step": 2.0} and files.shared.optimizer_steps == 2


@pytest.mark.parametrize(
    ("ranks", "stage", "learner"),
    [
        (2, 1, {"offload": "always"}),
        (2, 2, {"offload": "during_rollout"}),
        (1, 3, {"offload": "always"}),
        (2, 3, {"optimizer": "sgd"}),
    ],
)
def test_bfloat16_keeps_its_master_weights(go_on, ranks, stage, learner):
    first = go_on(None, "a", ranks, stage, "bfloat16", **learner)
    again = go_on("a", "b", ranks, stage, "bfloat16", **learner)
    assert_close(first["before"], again["before"], 0.0)
    assert_close(first["after"], again["after"], 0.0)
    if "optimizer" not in learner:
        other = go_on("b", None, 2, 2, "bfloat16")
        assert_close(first["before"], other["before"], 0.0)


ADAPTERS = LoraConfig(rank=3, alpha=6.0, targets=["q_proj", "down_proj"])


def test_adapters_go_on_from_any_layout(go_on, save_qwen3, tmp_path):
    first = go_on(None, "a", 2, 3, lora=ADAPTERS)
    again = go_on("a", None, 2, 3, lora=ADAPTERS)
    assert_close(first["before"], again["before"], 0.0)
    assert_close(first["after"], again["after"], 0.0)
    second = go_on("a", "b", 1, 2, lora=ADAPTERS)
    third = go_on("b", "c", 2, 0, lora=ADAPTERS)
    for other in (second, third):
        assert_close(first["before"], other["before"], 0.0)
        assert_close(first["after"], other["after"], 1e-6)
    for name in "abc":
        files = StateFiles(Folder(str(tmp_path / name)))
        assert len(files.shapes) == 2 * 2 * 2 and all("lora_" in k for k in files.shapes)
        assert_close(files.weights(files.shapes), {k: first["before"][k] for k in files.shapes}, 0)
        assert files.kinds == ["exp_avg", "exp_avg_sq", "fp32"] and files.shared.frozen != 0
    size = sum(file.stat().st_size for file in (tmp_path / "a").glob("rank_*"))
    elements = sum(w.numel() for k, w in first["before"].items() if "lora_" not in k)
    assert size < 0.5 * 12 * elements, "it holds more than the adapters"

    save_qwen3(tmp_path / "other", vocab_size=128, tie_word_embeddings=True)
    refusal = go_on("a", None, 2, 3, lora=ADAPTERS, model=str(tmp_path / "other"))["refusal"]
    assert "model.path" in refusal and "adapters alone" in refusal


@pytest.mark.parametrize(("stage", "offload"), [(2, "during_rollout"), (3, "always")])
def test_adapters_in_bfloat16(go_on, stage, offload):
    first = go_on(None, "a", 2, stage, "bfloat16", lora=ADAPTERS, offload=offload)
    again = go_on("a", None, 2, stage, "bfloat16", lora=ADAPTERS, offload=offload)
    assert_close(first["before"], again["before"], 0.0)
    assert_close(first["after"], again["after"], 0.0)
    moved = [k for k, w in first["before"].items() if not torch.equal(w, first["after"][k])]
    assert {k.split(".")[-2] if "lora_" not in k else "lora" for k in moved} == {
        *("q_proj", "down_proj", "lora")
    }
