"""A checkpoint is whole or is none: whatever happened to a file of it is found and named."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlvr.config import RunConfig
from rlvr.errors import ConfigError, RunError, RunFolderError
from rlvr.learner.state_files import Piece, SharedState, StateFiles, write
from rlvr.loop.checkpoint import Checkpoint
from rlvr.loop.checkpoints import Checkpoints, find_checkpoint
from rlvr.loop.state import resume_point
from rlvr.storage import FileSum, Folder
from tests.unit.json_values import damaged, json_values

STREAM = {"stream": {"first": 0}}


@pytest.fixture
def config(tmp_path) -> RunConfig:
    config = RunConfig()
    config.model.path, config.data.train, config.train.steps = "model", ["rows"], 10
    config.train.output_dir, config.train.resume = str(tmp_path), "auto"
    return config


@pytest.fixture
def checkpoints(config) -> Checkpoints:
    return Checkpoints.of(config)


def save(checkpoints: Checkpoints, config: RunConfig, step: int) -> Path:
    """A checkpoint of one parameter on two ranks."""
    folder = checkpoints.begin(step)
    sums: dict[str, FileSum] = {}
    for rank in range(2):
        piece = Piece("fp32/w", 3 * rank, torch.full((3,), float(step)))
        shared = SharedState({"w": [2, 3]}, step) if rank == 0 else None
        written = write(folder / "learner", rank, [piece], shared)
        sums |= {f"learner/{name}": known for name, known in written.items()}
    checkpoints.finish(folder, step, STREAM, config, sums)
    return Path(folder.url)


@pytest.fixture(name="save")
def saving(checkpoints, config):
    """``save(step)``"""
    return partial(save, checkpoints, config)


def test_the_newest_is_found(config, save):
    save(2)
    path = save(10)
    found = resume_point(config)
    assert found == Checkpoint.read(Folder.at(str(path)))
    assert (found.step, found.state) == (10, STREAM)
    assert StateFiles(found.learner).weights(["w"])["w"].tolist() == [[10.0] * 3] * 2
    config.train.resume = str(path.with_name("step_000002"))
    assert resume_point(config).step == 2


def test_no_checkpoint(config, checkpoints, capsys):
    assert resume_point(config) is None
    checkpoints.begin(2)  # killed before the first one was whole
    assert resume_point(config) is None
    assert "step_000002 was not finished" in capsys.readouterr().out
    config.train.resume = config.train.output_dir
    with pytest.raises(ConfigError, match="no checkpoint in"):
        resume_point(config)
    config.train.resume = None
    assert resume_point(config) is None


@pytest.mark.parametrize("place", ["file://{}/elsewhere", "memory://test_checkpoint"])
def test_they_lie_where_they_are_told_to(config, place, tmp_path, capsys):
    """In a store too a checkpoint is whole or is none: nothing is renamed."""
    config.train.checkpoint_dir = place.format(tmp_path)
    own = Checkpoints.of(config)
    own.prepare(new=True)
    assert resume_point(config) is None
    for step in (2, 4):
        save(own, config, step)
    with pytest.raises(RunFolderError, match="already holds the checkpoints of a run"):
        own.prepare(new=True)
    own.prepare(new=False)
    begun = own.begin(6)
    write(begun / "learner", 0, [], SharedState({}))
    (own.folder / "step_000004" / "learner").write("state.json", [b"{"])

    found = resume_point(config)
    told = capsys.readouterr().out
    assert found.step == 2
    assert "step_000006 was not finished" in told and "step_000004 is left out" in told
    assert StateFiles(found.learner).weights(["w"])["w"].tolist() == [[2.0] * 3] * 2
    own.forget_after(2)  # what was damaged is made again, and no later step left to go on from
    assert own.steps == [2]
    save(own, config, 4)
    assert own.folder.folders() == ["step_000002", "step_000004"]
    own.keep(1)
    assert own.steps == [4] and find_checkpoint(own.folder).step == 4
    assert find_checkpoint(own.folder / "step_000004").step == 4
    assert not (Path(config.train.output_dir) / "checkpoints").exists()
    told = {"train": {"checkpoint_dir": config.train.checkpoint_dir}}  # the run's folder says where
    (tmp_path / "config.yaml").write_text(json.dumps(told))
    assert find_checkpoint(Folder.at(str(tmp_path))).step == 4
    (tmp_path / "config.yaml").write_text("[")
    with pytest.raises(RunFolderError, match=r"config\.yaml is damaged"):
        find_checkpoint(Folder.at(str(tmp_path)))


def truncated(file) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flipped(file) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGE = {"truncated": truncated, "flipped": flipped, "missing": lambda file: file.unlink()}


@pytest.mark.parametrize("name", ["manifest.json", "learner/state.json", "learner/rank_00001"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_one_is_named_and_the_one_before_it_taken(config, save, capsys, name, kind):
    save(2)
    path = save(4)
    [file] = path.glob(f"{name}*")
    DAMAGE[kind](file)
    assert resume_point(config).step == 2
    told = capsys.readouterr().out
    left_out = "was not finished and" if (kind, name) == ("missing", "manifest.json") else ""
    assert re.search(f"step_000004 {left_out}.*is left out", told)
    assert left_out or file.name in told

    config.train.resume = str(path)  # whoever names one gets this one or none
    with pytest.raises(RunFolderError, match=file.name):
        resume_point(config)


def test_none_is_whole(config, save):
    for step in (2, 4):
        truncated(save(step) / "learner" / "rank_00000.safetensors")
    with pytest.raises(RunFolderError, match=r"(?s)is whole.*step_000004.*step_000002"):
        resume_point(config)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=200)
    | json_values("format", "step", "state", "configuration", "files", "crc32").map(
        lambda value: json.dumps(value).encode()
    )
)
def test_any_manifest_is_refused_in_words(tmp_path, content):
    folder = tmp_path / "step_000001"
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(RunFolderError, match=r"manifest\.json"):
        Checkpoint.read(Folder.at(str(folder)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_happens_to_a_file_no_other_state_is_taken_for_the_runs(config, save, data):
    folder = Path(config.train.output_dir, "checkpoints", "step_000004")
    if not folder.exists():
        save(2), save(4)
    file = data.draw(st.sampled_from(sorted(p for p in folder.rglob("*") if p.is_file())))
    whole = file.read_bytes()
    file.write_bytes(data.draw(damaged(whole)))
    found = resume_point(config)
    assert found.step in (2, 4) and found.state == STREAM
    weights = StateFiles(found.learner).weights(["w"])["w"]
    assert weights.tolist() == [[float(found.step)] * 3] * 2
    file.write_bytes(whole)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_pieces_join_whatever_the_cuts(tmp_path, data):
    """Saved by some ranks, read by others: each gets the elements that it asked for."""
    size = data.draw(st.integers(1, 40))
    values = torch.arange(float(size))

    def cuts() -> list[tuple[int, int]]:
        inner = data.draw(st.sets(st.integers(1, max(size - 1, 1)), max_size=4)) - {size}
        bounds = [0, *sorted(inner), size]
        return list(zip(bounds, bounds[1:], strict=False))

    folder = Folder.at(str(tmp_path / "state"))
    folder.remove()
    folder.create()
    for rank, (a, b) in enumerate(cuts()):
        shared = SharedState({"w": [size]}) if rank == 0 else None
        write(folder, rank, [Piece("fp32/w", a, values[a:b].clone())], shared)
    files = StateFiles(folder)
    for a, b in cuts():
        read = torch.full((b - a,), -1.0)
        files.fill([Piece("fp32/w", a, read)])
        assert torch.equal(read, values[a:b])
    assert torch.equal(files.weights(["w"])["w"], values)
    with pytest.raises(RunFolderError, match="fp32/w is not whole .* 1 elements"):
        files.fill([Piece("fp32/w", 0, torch.empty(size + 1))])


def test_changes_are_shown(config, save, capsys):
    save(2)
    config.learner.lr, config.learner.zero_stage, config.train.steps = 0.5, 2, 20
    resume_point(config)
    told = capsys.readouterr().out
    assert "  learner.lr: 1e-06 -> 0.5\n" in told and "  train.steps: 10 -> 20\n" in told
    assert "train.resume: None" not in told


def test_another_optimizer_is_refused(config, save):
    save(2)
    config.learner.optimizer = "sgd"
    with pytest.raises(ConfigError, match=r"learner\.optimizer=sgd.*adamw"):
        resume_point(config)


def test_other_adapters_are_refused(config, save):
    save(2)
    config.learner.lora.rank = 8
    with pytest.raises(ConfigError, match=r"learner\.lora\.rank=8.*that of 0"):
        resume_point(config)


def test_no_keys_of_services(config, save):
    config.telemetry.sinks = [{"name": "mine", "token": "secret"}]
    assert "secret" not in (save(2) / "manifest.json").read_text()


def test_the_newest_and_the_best_are_kept(save, checkpoints):
    for step in (2, 4, 6, 8):
        save(step)
    checkpoints.keep(2, best=4)
    assert checkpoints.steps == [4, 6, 8]
    checkpoints.keep(1)
    assert checkpoints.steps == [8]


def test_files_that_do_not_arrive(config, checkpoints, save):
    save(2)
    folder = checkpoints.begin(4)
    with pytest.raises(RunError, match="place that all nodes share"):
        checkpoints.finish(folder, 4, STREAM, config, {"learner/rank_00000": FileSum(9, "0")})
    assert checkpoints.steps == [2] and resume_point(config).step == 2
