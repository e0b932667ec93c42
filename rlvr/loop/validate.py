"""What a configuration means on its cluster, and whether it can be: before anything starts."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rlvr.algorithm.advantages import ADVANTAGES
from rlvr.algorithm.compatibility import METHODS, compatible
from rlvr.config import RunConfig, choices, nearest, refused_choice
from rlvr.errors import ConfigError
from rlvr.loop.reward import check_rewards
from rlvr.verify.answer import answer_pattern
from rlvr.weights.sender import BACKENDS

_BOUNDS: dict[str, tuple[float, float | None]] = {  # least, most
    "train.steps": (1, None),
    "train.prompts_per_step": (1, None),
    "train.epochs_per_step": (1, None),
    "train.max_staleness": (0, None),
    "rollout.group_size": (1, None),
    "rollout.max_response_tokens": (1, None),
    "rollout.max_running": (1, None),
    "rollout.tensor_parallel": (1, 8),
    "learner.tokens_per_micro_batch": (1, None),
    "learner.tokens_per_scoring_batch": (1, None),
    "learner.logits_mib": (1, None),
    "learner.zero_stage": (0, 3),
    "verifier.actors": (1, None),
    "verifier.processes": (1, None),
    "weights.timeout_s": (0.1, None),
    "cluster.nodes": (1, None),
    "cluster.gpus_per_node": (0, None),
    "data.max_prompt_tokens": (1, None),
}

_Rules = list[tuple[object, str]]  # whether it is wrong, and what to say then


def validated(config: RunConfig) -> RunConfig:
    """The configuration, resolved; raises ConfigError with every problem and what to change."""
    problems = [*_values(config), *_methods(config)]
    if not problems:
        config = resolved(config)
        rules = [*_batch(config), *_cluster(config), *_files(config)]
        problems = [complaint for wrong, complaint in rules if wrong]
    if problems:
        raise ConfigError("\n".join(f"- {p}" for p in problems))
    return config


def resolved(config: RunConfig) -> RunConfig:
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
        backend = "shm" if cluster.gpus == 0 else "ipc" if colocated else "nccl"
    engine = {"max_model_len": longest_sequence(config), **config.rollout.engine}
    return replace(
        config,
        learner=replace(config.learner, ranks=ranks),
        rollout=replace(config.rollout, workers=workers, engine=engine),
        verifier=replace(config.verifier, actors=config.verifier.actors or cluster.nodes),
        weights=replace(config.weights, backend=backend),
    )


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
    """Each value for itself, and those that exclude one another on any cluster."""
    rollout, learner = config.rollout, config.learner
    rules: _Rules = []
    for key in choices(RunConfig):
        refusal = refused_choice(key, _get(config, key))
        rules.append((refusal, str(refusal)))
    if (backend := config.weights.backend) not in ("auto", *BACKENDS):
        valid = ["auto", *BACKENDS]
        rules.append((True, f"weights.backend={backend}: unknown. {nearest(backend, valid)}"))
    for key, (least, most) in _BOUNDS.items():
        value = _get(config, key)
        wrong = value is not None and not least <= value <= (value if most is None else most)
        valid_range = f"at least {least:g}" if most is None else f"{least:g} to {most:g}"
        rules.append((wrong, f"{key}={value}: must be {valid_range}"))
    rules += [
        (
            learner.offload and learner.zero_stage == 0,
            "learner.offload=true needs learner.zero_stage of 1, 2 or 3",
        ),
        (
            learner.zero_stage == 0 and config.model.dtype == "bfloat16",
            "learner.zero_stage=0 keeps no fp32 master weights of a bfloat16 model; use 1, 2 or "
            "3, or model.dtype=float32",
        ),
        (not 0 < rollout.top_p <= 1, f"rollout.top_p={rollout.top_p}: must be in (0, 1]"),
        (
            rollout.temperature <= 0,
            f"rollout.temperature={rollout.temperature}: must be above 0; at 0 all responses of a "
            "group are equal and there is nothing to learn from",
        ),
    ]
    return [complaint for wrong, complaint in rules if wrong]


def _methods(config: RunConfig) -> list[str]:
    builds = [partial(r.build, getattr(config, node), node) for node, r in METHODS.items()]
    builds += [partial(f, config.verifier) for f in (answer_pattern, check_rewards)]
    problems = []
    for build in builds:
        try:
            build()
        except ConfigError as error:
            problems.append(str(error))
    if not problems:
        refusal = compatible(str(config.credit["name"]), str(config.objective["name"]))
        problems += [refusal] if refusal else []
    return problems


def _batch(config: RunConfig) -> _Rules:
    train, rollout, evaluation = config.train, config.rollout, config.evaluation
    advantage = str(config.advantage["name"])
    needs_group = getattr(ADVANTAGES.find(advantage, "advantage").method, "needs_group", True)
    mini = train.prompts_per_mini_batch
    return [
        (
            rollout.group_size < 2 and needs_group,
            f"rollout.group_size={rollout.group_size}: advantage '{advantage}' compares the "
            "responses of a group, so it needs at least 2",
        ),
        (
            mini and train.prompts_per_step % mini,
            f"train.prompts_per_mini_batch={mini} does not divide "
            f"train.prompts_per_step={train.prompts_per_step}",
        ),
        (
            train.max_staleness and config.cluster.placement == "colocated",
            "train.max_staleness>0 needs rollout and learner at work at the same time: set "
            "cluster.placement=disaggregated, or train.max_staleness=0",
        ),
        (
            train.overlong_buffer >= rollout.max_response_tokens,
            f"train.overlong_buffer={train.overlong_buffer} must be below "
            f"rollout.max_response_tokens={rollout.max_response_tokens}",
        ),
        (
            evaluation.samples and evaluation.temperature <= 0,
            "evaluation.samples>0 needs evaluation.temperature above 0",
        ),
        (
            (evaluation.every or evaluation.at_start or evaluation.at_end) and not config.data.eval,
            "evaluation is asked for but data.eval names no file",
        ),
    ]


def _cluster(config: RunConfig) -> _Rules:
    cluster, backend, tp = config.cluster, config.weights.backend, config.rollout.tensor_parallel
    ranks, workers = config.learner.ranks or 0, config.rollout.workers or 0
    colocated = cluster.placement == "colocated"
    rules: _Rules = [
        (
            ranks < 1 or workers < 1,
            f"learner.ranks={ranks} and rollout.workers={workers} on {cluster.gpus} GPUs: each "
            "needs at least one; lower the other or rollout.tensor_parallel",
        )
    ]
    if cluster.gpus == 0:
        return [
            *rules,
            (tp > 1, f"rollout.tensor_parallel={tp} needs GPUs; set it to 1"),
            (backend != "shm", f"weights.backend={backend} needs GPUs; use shm or auto"),
            (colocated, "cluster.placement=colocated shares GPUs, and there are none"),
        ]
    used = max(ranks, workers * tp) if colocated else ranks + workers * tp
    return [
        *rules,
        (
            used > cluster.gpus,
            f"learner.ranks={ranks} and rollout.workers={workers} x "
            f"rollout.tensor_parallel={tp} need {used} GPUs, but the cluster has {cluster.gpus} "
            f"(cluster.nodes={cluster.nodes} x cluster.gpus_per_node={cluster.gpus_per_node})",
        ),
        (
            tp > cluster.gpus_per_node,
            f"rollout.tensor_parallel={tp} exceeds cluster.gpus_per_node={cluster.gpus_per_node}",
        ),
        (
            colocated and tp > 1,
            f"rollout.tensor_parallel={tp} is not supported with cluster.placement=colocated; use "
            "1, or cluster.placement=disaggregated",
        ),
        (
            colocated and ranks != workers * tp,
            f"cluster.placement=colocated: learner.ranks={ranks} must equal rollout.workers x "
            f"rollout.tensor_parallel = {workers * tp}",
        ),
        (backend == "shm", "weights.backend=shm is for the CPU; use nccl, ipc or auto"),
        (
            backend == "ipc" and not colocated,
            "weights.backend=ipc needs cluster.placement=colocated",
        ),
    ]


def _files(config: RunConfig) -> _Rules:
    path = config.model.path
    local = path.startswith((".", "/", "~", "outputs/"))
    return [
        *((not Path(f).is_file(), f"data.train: no such file: {f}") for f in config.data.train),
        *((not Path(f).is_file(), f"data.eval: no such file: {f}") for f in config.data.eval),
        (
            local and not Path(path).expanduser().is_dir(),
            f"model.path: no such folder: {path}",
        ),
    ]


def _get(config: RunConfig, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value
