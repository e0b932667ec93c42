"""A checkpoint to resume from is found whole, or the error says where it is damaged."""

from __future__ import annotations

import json

import pytest

from rlvr.config import RunConfig
from rlvr.errors import ConfigError, RunFolderError
from rlvr.loop.state import resume_point


@pytest.fixture
def config(tmp_path) -> RunConfig:
    config = RunConfig()
    config.train.output_dir, config.train.resume = str(tmp_path), "auto"
    return config


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "checkpoints" / "step_000002"
    folder.mkdir(parents=True)
    (folder.parent / "latest").write_text(folder.name)
    return folder


def test_a_whole_checkpoint(config, checkpoint):
    state = {"step": 2, "stream": {"epoch": 0}}
    (checkpoint / "run.json").write_text(json.dumps(state))
    assert resume_point(config) == (checkpoint, state)


@pytest.mark.parametrize("text", [None, "", '{"step": 2, "str', '{"step": 2}', "[]", "3"])
def test_a_damaged_checkpoint_is_named(config, checkpoint, text):
    if text is not None:
        (checkpoint / "run.json").write_text(text)
    with pytest.raises(
        RunFolderError, match=r"step_000002/run\.json is missing or damaged.*latest"
    ):
        resume_point(config)


def test_no_checkpoint(config, tmp_path):
    assert resume_point(config) is None
    config.train.resume = str(tmp_path)
    with pytest.raises(ConfigError, match="no checkpoint in"):
        resume_point(config)
    config.train.resume = None
    assert resume_point(config) is None
