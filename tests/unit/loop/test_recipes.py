"""Published recipes say what their sources say, fit every cluster, and have a tiny twin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from rlvr.config import ClusterConfig, RunConfig
from rlvr.hydra_config import CONFIG_PATH, check_overrides, register, run_config
from rlvr.loop.validate import validated

# What the sources say, by key. A tuple value stands for a list.
QWEN3 = {
    "data.train": ("data/deepmath-103k.parquet",),
    "data.template": "plain",
    "data.plain_template": (
        "User:\n{problem}\nPlease reason step by step, and put your final answer within "
        "\\boxed{{}}.\n\nAssistant:\n"
    ),
    "data.max_prompt_tokens": 2048,
    "rollout.max_response_tokens": 20480,
    "rollout.group_size": 16,
    "rollout.temperature": 1.0,
    "rollout.top_p": 1.0,
    "train.prompts_per_step": 128,
    "train.prompts_per_mini_batch": 32,
    "train.epochs_per_step": 1,
    "train.dynamic_sampling": False,
    "train.overlong_buffer": 4096,
    "train.overlong_factor": 1.0,
    "advantage.name": "grpo",
    "objective.name": "dapo",
    "objective.clip_low": 0.2,
    "objective.clip_high": 0.28,
    "objective.dual_clip": 10.0,
    "learner.optimizer": "adamw",
    "learner.lr": 1e-6,
    "learner.warmup_steps": 0,
    "learner.weight_decay": 0.1,
    "learner.max_grad_norm": 1.0,
    "learner.entropy_bonus": 0.0,
    "learner.tokens_per_micro_batch": 22528,
    "evaluation.greedy": False,
    "evaluation.samples": 16,
    "evaluation.temperature": 1.0,
    "evaluation.top_p": 0.7,
    "evaluation.max_response_tokens": 30000,
}
QWEN3_8B = {**QWEN3, "model.path": "Qwen/Qwen3-8B-Base", "train.steps": 220}
QWEN3_14B = {**QWEN3, "model.path": "Qwen/Qwen3-14B-Base", "train.steps": 300}
DELTA = {"credit.name": "delta", "credit.refinements": 1, "credit.lambda_range": (0.8, 1.2)}
UNIFORM = {"credit.name": "uniform"}

COVARIANCE = {
    **UNIFORM,
    "model.path": "Qwen/Qwen2.5-7B",
    "data.max_prompt_tokens": 2048,
    "rollout.max_response_tokens": 8192,
    "rollout.group_size": 8,
    "rollout.temperature": 1.0,
    "rollout.top_p": 1.0,
    "train.prompts_per_step": 256,
    "train.prompts_per_mini_batch": 32,
    "train.epochs_per_step": 1,
    "train.dynamic_sampling": True,
    "train.max_sampling_rounds": 10,
    "train.overlong_factor": 0.0,
    "advantage.name": "grpo",
    "objective.aggregation": "token_mean",
    "objective.kl_coefficient": 0.0,
    "learner.lr": 5e-7,
    "learner.weight_decay": 0.0,
    "learner.max_grad_norm": 1.0,
    "learner.entropy_bonus": 0.0,
    "evaluation.greedy": True,
    "evaluation.every": 4,
}
R1_DISTILL = {
    **UNIFORM,
    "data.train": ("data/deepscaler.parquet",),
    "data.max_prompt_tokens": 1024,
    "rollout.max_response_tokens": 8192,
    "rollout.group_size": 8,
    "rollout.temperature": 0.6,
    "train.prompts_per_step": 128,
    "train.prompts_per_mini_batch": 32,
    "train.epochs_per_step": 1,
    "train.overlong_factor": 0.0,
    "train.checkpoint_every": 20,
    "learner.lr": 2e-6,
    "learner.entropy_bonus": 0.0,
    "evaluation.every": 20,
    "evaluation.at_start": True,
    "evaluation.samples": 16,
    "evaluation.temperature": 0.6,
    "evaluation.top_p": 0.95,
}
R1_METHODS = {
    "real": {"objective.name": "real", "objective.tau": 0.5, "objective.positive_threshold": 1.0},
    "real_bce": {"objective.name": "real_bce", "objective.tau": 0.5},
    "grpo": {
        "objective.name": "grpo",
        "objective.clip_high": 0.2,
        "objective.kl_coefficient": 1e-3,
    },
    "dapo": {
        "objective.name": "dapo",
        "objective.clip_low": 0.2,
        "objective.clip_high": 0.28,
        "objective.dual_clip": None,
    },
    "gspo": {"objective.name": "gspo", "objective.clip_low": 3e-4, "objective.clip_high": 4e-4},
}

THR = {
    "data.train": ("data/math_levels_3_to_5.parquet",),
    "rollout.group_size": 8,
    "rollout.temperature": 1.0,
    "train.steps": 40,
    "train.prompts_per_step": 256,
    "train.prompts_per_mini_batch": 64,
    "train.dynamic_sampling": True,
    "train.overlong_factor": 0.0,
    "learner.lr": 1e-6,
    "credit.name": "thr",
    "credit.beta": 1.0,
    "evaluation.greedy": True,
}
EXPLOIT = {**THR, "credit.p": 0.1, "evaluation.samples": 0}
EXPLORE = {**THR, "credit.p": -0.1, "evaluation.samples": 256}
UNDER_GRPO = {
    "objective.name": "grpo",
    "objective.aggregation": "token_mean",
    "objective.clip_low": 0.2,
    "objective.clip_high": 0.2,
    "objective.kl_coefficient": 1e-4,
}
UNDER_GSPO = {
    "objective.name": "gspo",
    "objective.aggregation": "sequence_mean",
    "objective.clip_low": 3e-4,
    "objective.clip_high": 4e-4,
    "objective.kl_coefficient": 1e-4,
}
MATH_WINDOW = {"data.max_prompt_tokens": 1024, "rollout.max_response_tokens": 3072}  # 4096 in all

OAR = {
    **{k: QWEN3[k] for k in QWEN3 if k.startswith(("learner.", "train."))},
    "data.train": ("data/dapo-math-17k.parquet",),
    "rollout.group_size": 16,
    "train.overlong_buffer": 0,
    "train.overlong_factor": 0.0,
    "train.steps": 220,
    "objective.name": "grpo",
    "objective.clip_low": 0.2,
    "objective.clip_high": 0.2,
    "objective.aggregation": "sequence_mean",
    "objective.kl_coefficient": 0.0,
}
QWEN25 = {**OAR, "model.path": "Qwen/Qwen2.5-7B", "rollout.max_response_tokens": 20480}
QWEN25_MATH = {
    **OAR,
    **MATH_WINDOW,
    "model.path": "Qwen/Qwen2.5-Math-7B",
    "learner.tokens_per_micro_batch": 16384,
}
OAR_G = {
    "credit.name": "oar_g",
    "credit.mode": "answer_mean",
    "credit.quantile": 0.25,
    "credit.beta": 1.0,
    "credit.noise": 1e-3,
}
OAR_P = {
    "credit.name": "oar_p",
    "credit.mode": "first",
    "credit.quantile": 0.25,
    "credit.beta": 1.0,
}
VINE = {
    "data.plain_template": "[MATH_TASK] Problem:\n{problem}\n\nSolution:",
    "rollout.max_response_tokens": 1024,
    "rollout.group_size": 8,
    "rollout.temperature": 0.6,
    "rollout.top_p": 0.9,
    "train.steps": 1000,
    "train.prompts_per_step": 64,  # 512 responses, 64 an update, two passes
    "train.prompts_per_mini_batch": 8,
    "train.epochs_per_step": 2,
    "train.dynamic_sampling": False,
    "advantage.name": "unit",
    "credit.name": "vine",
    "credit.segment": "newline",
    "credit.samples": 9,
    "credit.whiten": True,
    "objective.aggregation": "token_mean",
    "objective.clip_low": 0.2,
    "objective.clip_high": 0.2,
    "objective.kl_coefficient": 1e-4,
    "learner.lr": 1e-6,
    "learner.warmup_steps": 480,  # 3 % of 1000 · 16
    "learner.schedule": "linear",
    "learner.weight_decay": 0.0,
    "learner.max_grad_norm": 1.0,
    "evaluation.samples": 16,
    "evaluation.temperature": 0.35,
    "evaluation.top_p": 0.9,
}
SPO = {
    **VINE,
    "model.path": "realtreetune/rho-1b-sft-MATH",
    "credit.name": "spo",
    "credit.segment": None,
    "credit.threshold": 0.9,
    "credit.every": 5,
    "credit.mask": True,
    "objective.kl_coefficient": 0.0,
}

ADAPTERS = {
    "learner.lr": 1e-5,
    "learner.lora": {
        "rank": 32,
        "alpha": 64.0,
        "dropout": 0.0,
        "targets": [],
        "publish": "merged",
    },
}

RETOOL = {
    **DELTA,
    "objective.name": "dapo",
    "objective.clip_low": 0.2,
    "objective.clip_high": 0.28,
    "objective.dual_clip": 10.0,
    "objective.kl_coefficient": 0.0,
    "advantage.name": "grpo",
    "data.environment": "python",
    "data.template": "chat",
    "data.max_prompt_tokens": 2048,
    "environment.max_turns": 16,
    "rollout.max_response_tokens": 16384,
    "rollout.group_size": 8,
    "rollout.temperature": 1.0,
    "train.prompts_per_step": 32,
    "train.prompts_per_mini_batch": 32,
    "train.dynamic_sampling": True,
    "learner.lr": 1e-6,
    "evaluation.samples": 30,
    "evaluation.temperature": 1.0,
    "evaluation.top_p": 0.6,
    "evaluation.every": 20,
}

OTB = {
    "model.path": "Qwen/Qwen2.5-7B",
    "data.max_prompt_tokens": 1024,
    "rollout.max_response_tokens": 2048,
    "rollout.group_size": 8,
    "rollout.temperature": 1.0,
    "train.steps": 15 * ((7473 + 7500) // 128),
    "train.prompts_per_step": 128,
    "train.prompts_per_mini_batch": 128,
    "train.dynamic_sampling": False,
    "advantage.name": "unit",
    "credit.name": "otb",
    "objective.aggregation": "token_mean",
    "objective.clip_low": 0.2,
    "objective.clip_high": 0.2,
    "objective.dual_clip": 3.0,
    "objective.kl_coefficient": 0.0,
    "learner.lr": 1e-6,
    "learner.weight_decay": 0.01,
    "learner.max_grad_norm": 1.0,
    "evaluation.every": 5,
    "evaluation.greedy": True,
}

EXPECTED: dict[str, dict[str, Any]] = {
    "delta_qwen3_8b": {**QWEN3_8B, **DELTA},
    "dapo_qwen3_8b": {**QWEN3_8B, **UNIFORM},
    "delta_qwen3_14b": {**QWEN3_14B, **DELTA},
    "dapo_qwen3_14b": {**QWEN3_14B, **UNIFORM},
    "lora_delta_qwen3_8b": {**QWEN3_8B, **DELTA, **ADAPTERS},
    "lora_delta_qwen3_14b": {**QWEN3_14B, **DELTA, **ADAPTERS},
    **{
        f"{method}_r1_distill_{size}": {
            **R1_DISTILL,
            **options,
            "model.path": f"deepseek-ai/DeepSeek-R1-Distill-Qwen-{size.upper()}",
        }
        for method, options in R1_METHODS.items()
        for size in ("1.5b", "7b")
    },
    **{
        f"thr_{way}_qwen2.5_math_{size}": {
            **values,
            **UNDER_GRPO,
            **MATH_WINDOW,
            "model.path": f"Qwen/Qwen2.5-Math-{size.upper()}",
        }
        for way, values in {"exploit": EXPLOIT, "explore": EXPLORE}.items()
        for size in ("1.5b", "7b")
    },
    "thr_exploit_gspo_qwen2.5_math_1.5b": {**EXPLOIT, **UNDER_GSPO, **MATH_WINDOW},
    "thr_explore_gspo_qwen2.5_math_1.5b": {**EXPLORE, **UNDER_GSPO, **MATH_WINDOW},
    "thr_exploit_llama3.2_3b": {**EXPLOIT, **UNDER_GRPO, "rollout.max_response_tokens": 4000},
    "thr_explore_llama3.2_3b": {**EXPLORE, **UNDER_GRPO, "rollout.max_response_tokens": 4000},
    "oar_g_qwen2.5_7b": {**QWEN25, **OAR_G},
    "oar_p_qwen2.5_7b": {**QWEN25, **OAR_P},
    "grpo_qwen2.5_7b": {**QWEN25, **UNIFORM},
    "oar_g_qwen2.5_math_7b": {**QWEN25_MATH, **OAR_G},
    "oar_p_qwen2.5_math_7b": {**QWEN25_MATH, **OAR_P},
    "grpo_qwen2.5_math_7b": {**QWEN25_MATH, **UNIFORM},
    "kl_cov_qwen2.5_7b": {
        **COVARIANCE,
        "objective.name": "kl_cov",
        "objective.share": 0.002,
        "objective.penalty": 1.0,
    },
    "vine_deepseekmath_7b": {**VINE, "model.path": "realtreetune/deepseekmath-7b-sft-MATH-v2"},
    "vine_rho_1.1b": {**VINE, "model.path": "realtreetune/rho-1b-sft-MATH"},
    "spo_rho_1.1b": SPO,
    "otb_qwen2.5_7b": OTB,
    "retool_delta_qwen3_4b": {**RETOOL, "model.path": "font-info/qwen3-4b-sft-SGLang-RL"},
    "retool_delta_qwen3_8b": {**RETOOL, "model.path": "Qwen/Qwen3-8B"},
}

# Every size that a twin may change; what is not listed is the method's and must stay.
TINY = {
    *("model.path", "model.dtype"),
    *("data.train", "data.eval", "data.template", "data.plain_template", "data.system_prompt"),
    *("data.max_prompt_tokens", "rollout.group_size", "rollout.max_response_tokens"),
    *("rollout.max_running", "rollout.memory_utilization", "verifier.processes"),
    "learner.offload",
    *("learner.tokens_per_micro_batch", "learner.tokens_per_scoring_batch"),
    *("train.steps", "train.prompts_per_step", "train.prompts_per_mini_batch"),
    *("train.overlong_buffer", "train.checkpoint_every", "train.output_dir"),
    *("evaluation.every", "evaluation.samples", "evaluation.max_response_tokens"),
    "evaluation.limit",
}
QUICKSTART_WINDOW = 128  # positions of the model that twins train

RECIPES = sorted(EXPECTED)
CLUSTERS = sorted({p.stem for p in Path(CONFIG_PATH, "cluster").glob("*.yaml")} | {"2x8", "4x8"})


@pytest.fixture(scope="module", autouse=True)
def hydra() -> Iterator[None]:
    register()
    for cluster in CLUSTERS:
        check_overrides("train", [f"cluster={cluster}"])
    with initialize_config_dir(CONFIG_PATH, version_base="1.3"):
        yield


@cache
def composed(recipe: str, *words: str) -> RunConfig:
    return run_config(compose("train", overrides=[f"+recipe={recipe}", *words]))


@cache
def machines(cluster: str) -> ClusterConfig:
    return composed("delta_qwen3_8b", f"cluster={cluster}").cluster


def flat(config: RunConfig) -> dict[str, Any]:
    return {
        f"{group}.{key}": tuple(value) if isinstance(value, list) else value
        for group, values in asdict(config).items()
        for key, value in values.items()
    }


def touch(*files: str) -> None:
    for file in files:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).touch()


def test_every_recipe_is_held_to_its_source():
    names = {p.stem for p in Path(CONFIG_PATH, "recipe").glob("*.yaml")}
    assert names - {"quickstart", "calculator"} == set(RECIPES)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_has_the_numbers_of_its_source(recipe):
    values = flat(composed(recipe))
    assert {key: values.get(key) for key in EXPECTED[recipe]} == EXPECTED[recipe]


def test_clip_cov_takes_the_place_of_kl_cov_with_the_numbers_of_the_source():
    own = {"share": 0.0002, "low": 1.0, "high": 5.0, "clip_low": 1.0, "clip_high": 1.0}
    expected = COVARIANCE | {f"objective.{key}": value for key, value in own.items()}
    values = flat(composed("kl_cov_qwen2.5_7b", "objective=clip_cov"))
    assert {key: values.get(key) for key in expected} == expected


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_names_its_source(recipe):
    header = Path(CONFIG_PATH, "recipe", f"{recipe}.yaml").read_text().split("defaults:")[0]
    arxiv = {"delta": "2605.21467", "real": "2602.05630", "thr": "2510.03669", "oar": "2601.07408"}
    arxiv |= {"kl_cov": "2505.22617", "vine": "2410.01679", "retool": "2504.11536"}
    bases = [name for name in arxiv if f"base/{name}.yaml" in header]
    [source] = [arxiv[name] for name in bases] or ["2602.07078"]  # the one without relatives
    assert f"arXiv {source}" in header
    assert "Reported" in header
    for file in header.replace(",", " ").split():
        if file.startswith("base/"):
            assert Path(CONFIG_PATH, "recipe", file.rstrip(".")).is_file()


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_fits_every_cluster(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = composed(recipe)
    assert config.cluster == machines("local_cpu"), "machines are the user's choice"
    touch(*config.data.train, *config.data.eval)
    for cluster in CLUSTERS:
        resolved = validated(replace(config, cluster=machines(cluster)))
        gpus = resolved.cluster.gpus
        engines = (resolved.rollout.workers or 0) * resolved.rollout.tensor_parallel
        assert (resolved.learner.ranks, engines) == (max(gpus // 2, 1), max(gpus // 2, 1))


def test_the_command_of_the_guide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = composed("delta_qwen3_8b", "cluster=1x8")
    touch(*config.data.train, *config.data.eval)
    resolved = validated(config)
    assert (resolved.learner.ranks, resolved.rollout.workers) == (4, 4)
    assert resolved.rollout.engine["max_model_len"] == 2048 + 30000


@pytest.mark.parametrize("recipe", [r for r in RECIPES if "qwen2.5_math" in r])
def test_sequences_fit_the_context_of_qwen_math(recipe):
    config = composed(recipe)
    assert config.data.max_prompt_tokens + config.rollout.max_response_tokens <= 4096
    assert config.evaluation.max_response_tokens is None


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_tiny_twin_differs_in_size_alone(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = composed(recipe, "+scale=tiny")
    whole, twin = flat(composed(recipe)), flat(config)
    assert {key for key in whole if whole[key] != twin[key]} <= TINY
    assert whole.keys() == twin.keys()

    touch(*config.data.train)
    Path(config.model.path).mkdir(parents=True)
    resolved = validated(config)
    assert resolved.cluster.gpus == 0 and resolved.weights.backend == "object_store"
    assert resolved.train.steps == 2 and resolved.model.dtype == "float32"
    assert resolved.rollout.group_size <= 8
    assert resolved.rollout.engine["max_model_len"] <= QUICKSTART_WINDOW
    assert updates(twin) == 4
    assert penalised(twin) == penalised(whole)
    assert resolved.train.overlong_buffer < resolved.rollout.max_response_tokens
    assert resolved.evaluation.every == 2 and resolved.data.eval == resolved.data.train


def updates(values: dict[str, Any]) -> int:
    """Optimizer steps of a batch."""
    return values["train.prompts_per_step"] // values["train.prompts_per_mini_batch"]


def penalised(values: dict[str, Any]) -> bool:
    """Whether long responses lose reward."""
    return bool(values["train.overlong_buffer"] and values["train.overlong_factor"])


def test_a_tiny_twin_takes_another_model_and_task():
    config = composed("delta_qwen3_8b", "+scale=tiny", "model.path=mine", "data.train=[my.jsonl]")
    assert (config.model.path, config.data.train) == ("mine", ["my.jsonl"])
    assert config.data.eval == ["my.jsonl"]


def test_another_method_comes_with_its_own_options():
    config = composed("delta_qwen3_8b", "objective=gspo", "credit=thr")
    assert config.objective["clip_low"] == 3e-4
    assert config.credit["name"] == "thr"
    baseline = composed("thr_explore_qwen2.5_math_7b", "credit=uniform", "~credit.p")
    assert baseline.credit == {"name": "uniform"}
