"""Published shapes have the sizes that their model cards name."""

from __future__ import annotations

import pytest

from rlvr.config import ModelConfig
from rlvr.errors import ConfigError
from rlvr.learner.cost import Flops
from rlvr.plan.shape import shape_of


@pytest.mark.parametrize(
    ("name", "billions", "kv_bytes"),
    [
        ("Qwen/Qwen3-8B-Base", 8.19, 2 * 36 * 8 * 128 * 2),
        ("Qwen/Qwen3-14B-Base", 14.77, 2 * 40 * 8 * 128 * 2),
        ("Qwen/Qwen2.5-7B", 7.62, 2 * 28 * 4 * 128 * 2),
        ("Qwen/Qwen2.5-Math-1.5B", 1.54, 2 * 28 * 2 * 128 * 2),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", 1.78, 2 * 28 * 2 * 128 * 2),
        ("meta-llama/Llama-3.2-3B-Instruct", 3.21, 2 * 28 * 8 * 128 * 2),
    ],
)
def test_published_models(name, billions, kv_bytes) -> None:
    shape = shape_of(ModelConfig(path=name))
    assert shape.parameters / 1e9 == pytest.approx(billions, abs=0.005)
    assert shape.kv_bytes() == kv_bytes


def test_a_folder_is_read_without_its_weights(tiny_model, tmp_path) -> None:
    from pathlib import Path
    from shutil import copy

    copy(Path(tiny_model(True)) / "config.json", tmp_path)
    shape = shape_of(ModelConfig(path=str(tmp_path)))
    embedding, norms = 128 * 64, 64 + 2 * (2 * 64 + 2 * 32)
    layer = 64 * (4 + 2 + 2 + 4) * 32 + 3 * 64 * 128
    assert shape.parameters == embedding + 2 * layer + norms
    assert (shape.keys, shape.tied) == (64, True)
    assert shape.flops == Flops(2.0 * (2 * layer + norms), 4.0 * 128 * 2, 2.0 * embedding)


def test_a_model_that_nobody_knows(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"model\.path.*config\.json"):
        shape_of(ModelConfig(path=str(tmp_path)))
