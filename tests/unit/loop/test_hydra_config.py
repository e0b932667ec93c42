"""The command line: every group, open-ended choices, and errors that name the nearest key."""

from __future__ import annotations

import re
import shutil

import pytest
from hydra import compose, initialize_config_dir

from rlvr import hydra_config
from rlvr.algorithm.compatibility import METHODS
from rlvr.algorithm.credit import CREDITS
from rlvr.config import RunConfig
from rlvr.errors import ConfigError
from rlvr.hydra_config import CONFIG_PATH, check_overrides, register, run_config

NEEDED = ["model.path=m", "data.train=[x.jsonl]", "train.steps=2"]


def configure(*words: str) -> RunConfig:
    register()
    arguments = [*NEEDED, *words]
    check_overrides("train", arguments)
    with initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        return run_config(compose("train", overrides=arguments))


@pytest.mark.parametrize(
    ("word", "group", "name", "value"),
    [
        ("model.dtype=float32", "model", "dtype", "float32"),
        ("data.on_bad_row=drop", "data", "on_bad_row", "drop"),
        ("rollout.group_size=4", "rollout", "group_size", 4),
        ("verifier.timeout_s=3", "verifier", "timeout_s", 3.0),
        ("learner.zero_stage=3", "learner", "zero_stage", 3),
        ("weights.timeout_s=5", "weights", "timeout_s", 5.0),
        ("cluster.placement=colocated", "cluster", "placement", "colocated"),
        ("train.seed=7", "train", "seed", 7),
        ("evaluation.every=7", "evaluation", "every", 7),
        ("telemetry.wandb=disabled", "telemetry", "wandb", "disabled"),
    ],
)
def test_every_group_can_be_overridden(word, group, name, value):
    assert getattr(getattr(configure(word), group), name) == value


def test_methods_are_chosen_by_name_with_their_options():
    config = configure("credit=delta", "credit.refinements=2", "objective=gspo", "advantage=rloo")
    assert config.credit["name"] == "delta" and config.credit["refinements"] == 2
    assert config.objective["name"] == "gspo" and config.advantage["name"] == "rloo"


@pytest.mark.parametrize("group", METHODS)
def test_every_method_is_a_choice_with_all_its_options(group):
    registry = METHODS[group]
    for name in registry.names():
        assert getattr(configure(f"{group}={name}"), group) == registry.find(name, group).node(name)


def test_a_preset_of_the_users_own(tmp_path, monkeypatch):
    conf = tmp_path / "conf"
    shutil.copytree(CONFIG_PATH, conf)
    (conf / "credit").mkdir()
    (conf / "credit" / "twice.yaml").write_text("name: delta\nrefinements: 2\n")
    monkeypatch.setattr(hydra_config, "CONFIG_PATH", str(conf))
    [node] = check_overrides("train", [*NEEDED, "credit=twice"])
    assert node.credit == {"name": "delta", "refinements": 2}
    with pytest.raises(ConfigError, match="credit=twoce: no such choice. Did you mean 'twice'"):
        check_overrides("train", [*NEEDED, "credit=twoce"])


def test_a_cluster_of_any_size():
    config = configure("cluster=3x5")
    assert (config.cluster.nodes, config.cluster.gpus_per_node) == (3, 5)


def test_a_method_outside_of_the_package(tmp_path, monkeypatch, own_registry):
    (tmp_path / "my_methods_for_a_test").mkdir()
    (tmp_path / "my_methods_for_a_test" / "half.py").write_text(
        "from dataclasses import dataclass\n"
        "from rlvr.algorithm.credit import CREDITS\n"
        "@dataclass\n"
        "class HalfConfig:\n"
        "    name: str = 'half'\n"
        "    value: float = 0.5\n"
        "@CREDITS.register('half', HalfConfig)\n"
        "class Half:\n"
        "    def __init__(self, config): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    own_registry(CREDITS)
    config = configure("credit=my_methods_for_a_test.half", "credit.value=0.25")
    assert config.credit == {"name": "my_methods_for_a_test.half", "value": 0.25}


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("train.stepz=3", r"train\.stepz: no such key\. Did you mean 'steps'\?"),
        ("learnr.lr=3", r"learnr\.lr: no such key\. Did you mean 'learner'\?"),
        ("credit=dleta", r"credit=dleta: no such choice\. Did you mean 'delta'\?"),
        ("objective.clip_lo=1", r"objective\.clip_lo: no such key"),
        ("model.dtype=blfoat16", r"^model\.dtype=blfoat16: unknown\. Did you mean 'bfloat16'\?$"),
        ("verifier.code.sandbox='x'", r"verifier\.code\.sandbox=x: unknown\. Valid: bubblewrap"),
        ("train.steps=abc", r"train\.steps=abc.*could not be converted to Integer"),
        ("credit=no_such_package.x", r"cannot import 'no_such_package\.x'"),
    ],
)
def test_mistakes_are_answered_in_words(word, complaint):
    with pytest.raises(ConfigError, match=complaint):
        configure(word)


def test_what_must_be_set_is_listed():
    register()
    with initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        node = compose("train")
    with pytest.raises(ConfigError) as caught:
        run_config(node)
    for key in ("model.path", "data.train", "train.steps"):
        assert f"- {key}: must be set" in str(caught.value)


def test_a_sweep_is_composed_before_it_starts():
    register()
    words = ["--multirun", *NEEDED, "credit=uniform,delta", "objective=dapo,real", "train.seed=0,1"]
    nodes = check_overrides("train", words)
    pairs = [(node.credit.name, node.objective.name) for node in nodes]
    assert pairs == [(c, o) for c in ("uniform", "delta") for o in ("dapo", "real")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["credit=uniform,delat"], "credit=delat: no such choice. Did you mean 'delta'?"),
        (["model.dtype=float32,flaot32"], "model.dtype=flaot32: unknown. Did you mean 'float32'?"),
        (["train.seed=0,1", "lerner.lr=1"], "lerner.lr: no such key. Did you mean 'learner'?"),
    ],
)
def test_errors_of_a_sweep(words, message):
    register()
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_overrides("train", ["--multirun", *NEEDED, *words])


def test_the_words_of_hydras_flags_are_no_overrides():
    register()
    assert check_overrides("train", ["--cfg", "job", "credit=delta"]) == []
