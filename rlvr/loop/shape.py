"""What a configuration means on its cluster, and whether it can be: before anything starts."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlvr.algorithm.advantages import ADVANTAGES
from rlvr.algorithm.compatibility import compatible
from rlvr.algorithm.correction import CORRECTIONS
from rlvr.algorithm.credit import CREDITS
from rlvr.algorithm.objectives import OBJECTIVES
from rlvr.config import ConfigError, RunConfig, nearest
from rlvr.weights.base import WEIGHT_BACKENDS, backend_class, default_backend

_CHOICES: dict[str, tuple[str, ...]] = {
    "model.dtype": ("bfloat16", "float32"),
    "data.template": ("chat", "plain", "none"),
    "data.on_bad_row": ("error", "drop"),
    "learner.optimizer": ("adamw", "sgd"),
    "learner.features": ("auto", "device", "host", "recompute"),
    "verifier.code.sandbox": ("bubblewrap", "unsafe"),
    "weights.backend": ("auto", *WEIGHT_BACKENDS.names()),
    "cluster.placement": ("disaggregated", "colocated"),
    "telemetry.wandb": ("online", "offline", "disabled"),
}

_AT_LEAST: dict[str, float] = {
    "train.steps": 1,
    "train.prompts_per_step": 1,
    "train.epochs_per_step": 1,
    "train.max_staleness": 0,
    "rollout.group_size": 1,
    "rollout.max_response_tokens": 1,
    "rollout.max_running": 1,
    "learner.tokens_per_micro_batch": 1,
    "learner.tokens_per_scoring_batch": 1,
    "learner.logits_mib": 1,
    "verifier.actors": 1,
    "verifier.processes": 1,
    "weights.timeout_s": 0.1,
    "cluster.nodes": 1,
    "cluster.gpus_per_node": 0,
    "data.max_prompt_tokens": 1,
}


def resolve(config: RunConfig) -> RunConfig:
    """Fill in what the cluster decides: ranks, workers, weight backend, threads."""
    cluster, tp = config.cluster, config.rollout.tensor_parallel
    colocated = cluster.placement == "colocated"
    ranks, workers = config.learner.ranks, config.rollout.workers
    if cluster.gpus == 0:
        ranks, workers = ranks or 1, workers or 1
    elif colocated:
        ranks = ranks or cluster.gpus
        workers = workers or ranks // tp
    elif ranks is None and workers is None:
        workers = max(1, cluster.gpus // 2 // tp)
        ranks = cluster.gpus - workers * tp
    elif ranks is None:
        ranks = cluster.gpus - (workers or 0) * tp
    elif workers is None:
        workers = (cluster.gpus - ranks) // tp
    backend = config.weights.backend
    if backend == "auto":
        backend = default_backend(cluster)
    return dataclasses.replace(
        config,
        learner=dataclasses.replace(config.learner, ranks=ranks),
        rollout=dataclasses.replace(
            config.rollout,
            workers=workers,
            engine={"max_model_len": longest_sequence(config), **config.rollout.engine},
        ),
        verifier=dataclasses.replace(
            config.verifier, actors=config.verifier.actors or cluster.nodes
        ),
        weights=dataclasses.replace(config.weights, backend=backend),
    )


def check(config: RunConfig) -> RunConfig:
    """Resolve and validate; raises ConfigError with every problem, its key and what to change."""
    problems = [*_values(config), *_methods(config)]
    if not problems:
        config = resolve(config)
        problems = [*_batch(config), *_cluster(config), *_files(config)]
    if problems:
        raise ConfigError("\n".join(f"- {p}" for p in problems))
    return config


def longest_sequence(config: RunConfig) -> int:
    """Tokens of the longest prompt and response that the run allows."""
    response = max(config.rollout.max_response_tokens, config.evaluation.max_response_tokens or 0)
    return config.data.max_prompt_tokens + response


def learner_threads(config: RunConfig) -> int:
    """torch threads of a learner rank on a CPU: all cores shared among the ranks."""
    return config.cluster.torch_threads or max(1, _cores() // (config.learner.ranks or 1))


def rollout_threads(config: RunConfig) -> int:
    """torch threads of a rollout worker on a CPU: one share of the cores is the driver's."""
    return config.cluster.torch_threads or max(1, _cores() // ((config.rollout.workers or 1) + 1))


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _values(config: RunConfig) -> list[str]:
    problems = []
    for key, valid in _CHOICES.items():
        value = _get(config, key)
        if value not in valid:
            problems.append(f"{key}={value}: unknown. {nearest(str(value), list(valid))}")
    for key, least in _AT_LEAST.items():
        value = _get(config, key)
        if value is not None and value < least:
            problems.append(f"{key}={value}: must be at least {least:g}")
    if config.learner.zero_stage not in (0, 1, 2, 3):
        problems.append(f"learner.zero_stage={config.learner.zero_stage}: must be 0, 1, 2 or 3")
    if config.learner.offload and config.learner.zero_stage == 0:
        problems.append("learner.offload=true needs learner.zero_stage of 1, 2 or 3")
    if config.learner.zero_stage == 0 and config.model.dtype == "bfloat16":
        problems.append(
            "learner.zero_stage=0 keeps no fp32 master weights of a bfloat16 model; use 1, 2 or "
            "3, or model.dtype=float32"
        )
    if not 0 < config.rollout.top_p <= 1:
        problems.append(f"rollout.top_p={config.rollout.top_p}: must be in (0, 1]")
    if config.rollout.temperature <= 0:
        problems.append(
            f"rollout.temperature={config.rollout.temperature}: must be above 0; at 0 all "
            "responses of a group are equal and there is nothing to learn from"
        )
    if not 1 <= config.rollout.tensor_parallel <= 8:
        problems.append(f"rollout.tensor_parallel={config.rollout.tensor_parallel}: must be 1 to 8")
    return problems


def _methods(config: RunConfig) -> list[str]:
    builds: list[Callable[[], object]] = [
        lambda: ADVANTAGES.build(config.advantage, "advantage"),
        lambda: OBJECTIVES.build(config.objective, "objective"),
        lambda: CREDITS.build(config.credit, "credit"),
        lambda: CORRECTIONS.build(config.correction, "correction"),
    ]
    problems = []
    for build in builds:
        try:
            build()
        except ConfigError as error:
            problems.append(str(error))
    if not problems:
        refusal = compatible(str(config.credit["name"]), str(config.objective["name"]))
        if refusal:
            problems.append(refusal)
    return problems


def _batch(config: RunConfig) -> list[str]:
    train, problems = config.train, []
    if config.rollout.group_size < 2 and config.advantage["name"] != "reinforce_pp":
        problems.append(
            f"rollout.group_size={config.rollout.group_size}: advantage "
            f"'{config.advantage['name']}' compares the responses of a group, so it needs at "
            "least 2"
        )
    mini = train.prompts_per_mini_batch
    if mini and train.prompts_per_step % mini:
        problems.append(
            f"train.prompts_per_mini_batch={mini} does not divide "
            f"train.prompts_per_step={train.prompts_per_step}"
        )
    if train.max_staleness and config.cluster.placement == "colocated":
        problems.append(
            "train.max_staleness>0 needs rollout and learner at work at the same time: set "
            "cluster.placement=disaggregated, or train.max_staleness=0"
        )
    if train.overlong_buffer >= config.rollout.max_response_tokens:
        problems.append(
            f"train.overlong_buffer={train.overlong_buffer} must be below "
            f"rollout.max_response_tokens={config.rollout.max_response_tokens}"
        )
    if config.evaluation.samples and config.evaluation.temperature <= 0:
        problems.append("evaluation.samples>0 needs evaluation.temperature above 0")
    wants_eval = config.evaluation.every or config.evaluation.at_start or config.evaluation.at_end
    if wants_eval and not config.data.eval:
        problems.append("evaluation is asked for but data.eval names no file")
    return problems


def _cluster(config: RunConfig) -> list[str]:
    cluster, tp = config.cluster, config.rollout.tensor_parallel
    ranks, workers = config.learner.ranks or 0, config.rollout.workers or 0
    problems = []
    refusal = backend_class(config.weights.backend).refusal(cluster)
    if refusal:
        problems.append(f"weights.backend={config.weights.backend} {refusal}")
    if ranks < 1 or workers < 1:
        problems.append(
            f"learner.ranks={ranks} and rollout.workers={workers} on {cluster.gpus} GPUs: each "
            "needs at least one; lower the other or rollout.tensor_parallel"
        )
    if cluster.gpus == 0:
        if tp > 1:
            problems.append(f"rollout.tensor_parallel={tp} needs GPUs; set it to 1")
        if cluster.placement == "colocated":
            problems.append("cluster.placement=colocated shares GPUs, and there are none")
        return problems
    used = max(ranks, workers * tp) if cluster.placement == "colocated" else ranks + workers * tp
    if used > cluster.gpus:
        problems.append(
            f"learner.ranks={ranks} and rollout.workers={workers} x "
            f"rollout.tensor_parallel={tp} need {used} GPUs, but the cluster has {cluster.gpus} "
            f"(cluster.nodes={cluster.nodes} x cluster.gpus_per_node={cluster.gpus_per_node})"
        )
    if tp > cluster.gpus_per_node:
        problems.append(
            f"rollout.tensor_parallel={tp} exceeds cluster.gpus_per_node={cluster.gpus_per_node}"
        )
    if cluster.placement == "colocated" and tp > 1:
        problems.append(
            f"rollout.tensor_parallel={tp} is not supported with cluster.placement=colocated; use "
            "1, or cluster.placement=disaggregated"
        )
    if cluster.placement == "colocated" and ranks != workers * tp:
        problems.append(
            f"cluster.placement=colocated: learner.ranks={ranks} must equal rollout.workers x "
            f"rollout.tensor_parallel = {workers * tp}"
        )
    return problems


def _files(config: RunConfig) -> list[str]:
    problems = []
    for key, files in (("data.train", config.data.train), ("data.eval", config.data.eval)):
        problems += [f"{key}: no such file: {f}" for f in files if not Path(f).is_file()]
    path = config.model.path
    if path.startswith((".", "/", "~", "outputs/")) and not Path(path).expanduser().is_dir():
        problems.append(f"model.path: no such folder: {path}")
    return problems


def _get(config: RunConfig, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value
