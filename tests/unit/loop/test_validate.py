"""Impossible configurations are refused with the key and what to change; the rest is derived."""

from __future__ import annotations

import math
from functools import reduce

import pytest

from rlvr.choice import choices
from rlvr.config import LoraConfig, RunConfig, Template
from rlvr.errors import ConfigError
from rlvr.loop.bounds import BOUNDS
from rlvr.loop.resolve import resolved
from rlvr.loop.validate import validated


@pytest.fixture
def config(tmp_path) -> RunConfig:
    data = tmp_path / "train.jsonl"
    data.write_text("{}\n")
    config = RunConfig()
    config.model.path = "some/model"
    config.data.train = [str(data)]
    config.train.steps = 3
    return config


def put(config: RunConfig, key: str, value: object) -> None:
    group, _, name = key.partition(".")
    if name:
        setattr(getattr(config, group), name, value)
    else:
        setattr(config, group, value)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"rollout.group_size": 1}, r"rollout\.group_size=1.*at least 2"),
        ({"train.prompts_per_mini_batch": 48}, r"prompts_per_mini_batch=48 does not divide .*128"),
        ({"learner.ranks": 9}, r"learner\.ranks=9"),
        ({"learner.ranks": 6, "rollout.workers": 4}, r"need 10 GPUs, but the cluster has 8"),
        ({"rollout.tensor_parallel": 9}, r"rollout\.tensor_parallel=9: must be 1 to 8"),
        ({"rollout.temperature": 0.0}, r"rollout\.temperature=0\.0: must be above 0"),
        ({"learner.zero_stage": 4}, r"learner\.zero_stage=4"),
        ({"learner.sequence_parallel": 3}, r"sequence_parallel=3: must be 1, 2, 4 or 8"),
        (
            {"learner.sequence_parallel": 4, "learner.ranks": 6, "rollout.workers": 2},
            r"learner\.ranks=6 cannot be cut into groups of learner\.sequence_parallel=4",
        ),
        ({"learner.offload": "always", "learner.zero_stage": 0}, r"learner\.offload=always needs"),
        ({"learner.offload": "during_rollout"}, r"it needs cluster\.placement=colocated"),
        ({"cluster.placement": "colocatd"}, r"cluster\.placement=colocatd.*'colocated'"),
        ({"cluster.placement": "colocated", "train.max_staleness": 2}, r"train\.max_staleness>0"),
        (
            {"cluster.placement": "colocated", "learner.ranks": 3, "rollout.workers": 2},
            "must equal",
        ),
        ({"learner.lora": LoraConfig(-1)}, r"learner\.lora\.rank=-1: must be at least 0"),
        ({"learner.lora": LoraConfig(4, alpha=0)}, r"learner\.lora\.alpha=0: must be above 0"),
        ({"learner.lora": LoraConfig(4, dropout=0.1)}, r"dropout=0\.1: must be 0.*no ratio"),
        ({"learner.lora": LoraConfig(targets=["q_proj"])}, r"targets needs learner\.lora\.rank"),
        ({"learner.lora": LoraConfig(publish="adapter")}, r"publish=adapter needs.*rank"),
        ({"weights.backend": "adapter"}, r"adapter does not go with learner\.lora\.publish=merged"),
        (
            {
                "learner.lora": LoraConfig(4, publish="adapter"),
                "cluster.placement": "colocated",
            },
            r"publish=adapter does not go with cluster\.placement=colocated",
        ),
        ({"learner.zero_stage": 0}, r"learner\.zero_stage=0 keeps no fp32 master weights"),
        ({"weights.backend": "object_store"}, r"weights\.backend=object_store is for CPUs"),
        ({"weights.backend": "ipc"}, r"weights\.backend=ipc needs cluster\.placement=colocated"),
        ({"evaluation.every": 5}, r"data\.eval names no file"),
        ({"strength": {"name": "audited"}}, r"strength=audited needs audits .*evaluation\.audit"),
        ({"evaluation.audit": 500}, r"evaluation\.audit>0 needs evaluation\.every"),
        ({"data.train": ["/nowhere.parquet"]}, r"no such file: /nowhere\.parquet"),
        ({"model.path": "./nowhere"}, r"model\.path: no such folder: \./nowhere"),
        ({"train.overlong_buffer": 2000}, r"train\.overlong_buffer=2000 must be below"),
        ({"objective": {"name": "dapoo"}}, r"no objective method is called 'dapoo'.*'dapo'"),
        (
            {"credit": {"name": "delta", "lamda_range": [1, 2]}},
            r"credit\.lamda_range.*lambda_range",
        ),
        ({"credit": {"name": "thr"}, "objective": {"name": "real"}}, r"thr"),
    ],
)
def test_what_cannot_run_is_refused_by_name(config, changes, complaint):
    config.cluster.gpus_per_node = 8
    for key, value in changes.items():
        put(config, key, value)
    with pytest.raises(ConfigError, match=complaint):
        validated(config)


@pytest.mark.parametrize(
    ("heads", "key_heads", "size", "fits"),
    [(28, 4, 4, True), (28, 4, 8, False), (16, 2, 8, True), (12, 3, 2, False), (4, 4, 4, True)],
)
def test_sequence_parallel_ranks_divide_the_heads(config, tmp_path, heads, key_heads, size, fits):
    from transformers import Qwen2Config

    Qwen2Config(num_attention_heads=heads, num_key_value_heads=key_heads).save_pretrained(tmp_path)
    config.model.path, config.learner.sequence_parallel = str(tmp_path), size
    config.cluster.gpus_per_node = 16
    if fits:
        assert validated(config).learner.sequence_parallel == size
        return
    with pytest.raises(ConfigError, match=f"={size} does not divide .*: {heads}, with {key_heads}"):
        validated(config)


@pytest.mark.parametrize("key", [*choices(RunConfig), "weights.backend"])
def test_a_choice_that_there_is_not_is_refused_with_the_nearest(config, key):
    *groups, name = key.split(".")
    node = config
    for group in groups:
        node = getattr(node, group)
    right = str(getattr(node, name))
    setattr(node, name, right[:-1] + "x")
    with pytest.raises(ConfigError) as caught:
        validated(config)
    assert str(caught.value) == f"- {key}={right[:-1]}x: unknown. Did you mean '{right}'?"


def test_words_and_members_are_the_same_choice(config):
    config.cluster.placement, config.data.template = "disaggregated", Template.none
    assert Template.none == "none" and str(Template.none) == "none"
    assert validated(config) == validated(validated(config))


def test_all_problems_are_reported_at_once(config):
    config.rollout.group_size = 1
    config.train.prompts_per_mini_batch = 7
    config.data.eval = ["/nowhere.jsonl"]
    with pytest.raises(ConfigError) as caught:
        validated(config)
    assert str(caught.value).count("\n- ") == 2


@pytest.mark.parametrize(
    ("cluster", "given", "expected"),
    [
        ({"gpus_per_node": 0}, {}, (1, 1, "object_store")),
        ({"gpus_per_node": 8}, {}, (4, 4, "nccl")),
        ({"gpus_per_node": 8}, {"tensor_parallel": 2}, (4, 2, "nccl")),
        ({"gpus_per_node": 8, "nodes": 2}, {"ranks": 12}, (12, 4, "nccl")),
        ({"gpus_per_node": 8}, {"workers": 2, "tensor_parallel": 2}, (4, 2, "nccl")),
        ({"gpus_per_node": 8, "placement": "colocated"}, {}, (8, 8, "ipc")),
        ({"gpus_per_node": 8, "placement": "colocated"}, {"tensor_parallel": 4}, (8, 2, "ipc")),
        ({"gpus_per_node": 0, "placement": "colocated"}, {}, (1, 1, "object_store")),
    ],
)
def test_the_cluster_decides_what_is_left_open(config, cluster, given, expected):
    for name, value in cluster.items():
        setattr(config.cluster, name, value)
    for name, value in given.items():
        setattr(config.learner if name == "ranks" else config.rollout, name, value)
    resolved = validated(config)
    assert (
        resolved.learner.ranks,
        resolved.rollout.workers,
        resolved.weights.backend,
    ) == expected


def test_the_engine_is_given_no_more_length_than_the_run_needs(config):
    config.data.max_prompt_tokens, config.rollout.max_response_tokens = 100, 30
    config.evaluation.max_response_tokens = 50
    assert resolved(config).rollout.engine["max_model_len"] == 150
    config.rollout.engine = {"max_model_len": 999}
    assert resolved(config).rollout.engine["max_model_len"] == 999


@pytest.mark.parametrize("key", BOUNDS)
def test_a_number_below_its_least_is_named_and_so_is_none_at_all(tmp_path, key):
    least = BOUNDS[key][0]
    for value in (least - 1, math.nan):
        config = RunConfig()
        config.model.path, config.data.train, config.train.steps = str(tmp_path), ["x.jsonl"], 1
        *path, leaf = key.split(".")
        node = reduce(getattr, path, config)
        setattr(node, leaf, value)
        with pytest.raises(ConfigError, match=rf"{key}={value}: must be"):
            validated(config, files=False)


def test_shadows_are_checked_with_the_rest(config):
    config.shadow.credits = ["delta", {"name": "thr", "q": 1}]
    with pytest.raises(ConfigError, match=r"- shadow\.credits\[1\]\.q: no such key"):
        validated(config)
    config.shadow.credits = ["delta", {"name": "thr", "p": math.inf}]
    with pytest.raises(ConfigError, match=r"- shadow\.credits\[1\]\.p=inf: is no number"):
        validated(config)
