"""Whether a configuration can be, before anything starts."""

from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import partial
from typing import Any

from rlvr.algorithm.advantages import ADVANTAGES
from rlvr.algorithm.compatibility import METHODS, compatible
from rlvr.algorithm.credit.shadow import credit_methods
from rlvr.algorithm.strength import STRENGTHS
from rlvr.choice import choices, nearest, refused_choice
from rlvr.config import Publish, RunConfig
from rlvr.data.sources import sources
from rlvr.errors import ConfigError
from rlvr.loop.bounds import BOUNDS
from rlvr.loop.named_files import named_files
from rlvr.loop.resolve import resolved
from rlvr.loop.reward import check_rewards
from rlvr.verify.answer import answer_pattern
from rlvr.weights.base import WEIGHT_BACKENDS, backend_class

_Rules = list[tuple[object, str]]  # whether it is wrong, and what to say then


def validated(config: RunConfig, *, files: bool = True) -> RunConfig:
    """The configuration, resolved; raises ConfigError with every problem and what to change.

    Without ``files`` those that it names need not be there. With ``learner.ranks`` 0 nothing is
    trained.
    """
    problems = [*_values(config), *_methods(config)]
    if not problems:
        config = resolved(config)
        rules = [*_batch(config), *_cluster(config)]
        problems = [complaint for wrong, complaint in rules if wrong]
        problems += named_files(config) if files else []
    if problems:
        raise ConfigError("\n".join(f"- {p}" for p in problems))
    return config


def _values(config: RunConfig) -> list[str]:
    """Each value for itself, and those that exclude one another on any cluster."""
    rollout, learner, lora = config.rollout, config.learner, config.learner.lora
    rules: _Rules = [
        (not -(2**63) < value < 2**63, f"{key}={value}: is no number that a run could use")
        for key, value in _numbers(config)
    ]
    for key in choices(RunConfig):
        refusal = refused_choice(key, _get(config, key))
        rules.append((refusal, str(refusal)))
    backend, backends = config.weights.backend, ["auto", *WEIGHT_BACKENDS.names()]
    if backend not in backends and "." not in backend:
        rules.append((True, f"weights.backend={backend}: unknown. {nearest(backend, backends)}"))
    for key, (least, most) in BOUNDS.items():
        value = _get(config, key)
        wrong = value is not None and not least <= value <= (value if most is None else most)
        valid_range = f"at least {least:g}" if most is None else f"{least:g} to {most:g}"
        rules.append((wrong, f"{key}={value}: must be {valid_range}"))
    rules += [
        (
            learner.offload == "always" and learner.zero_stage == 0,
            "learner.offload=always needs learner.zero_stage of 1, 2 or 3",
        ),
        (
            learner.offload == "during_rollout" and config.cluster.placement != "colocated",
            "learner.offload=during_rollout is for engines on the learner's GPUs: it needs "
            "cluster.placement=colocated",
        ),
        (
            learner.zero_stage == 0 and config.model.dtype == "bfloat16",
            "learner.zero_stage=0 keeps no fp32 master weights of a bfloat16 model; use 1, 2 or "
            "3, or model.dtype=float32",
        ),
        (
            learner.sequence_parallel not in (1, 2, 4, 8),
            f"learner.sequence_parallel={learner.sequence_parallel}: must be 1, 2, 4 or 8",
        ),
        (
            learner.min_lr > learner.lr,
            f"learner.min_lr={learner.min_lr:g} is above learner.lr={learner.lr:g}",
        ),
        (
            len(learner.betas) != 2 or not all(0 <= beta < 1 for beta in learner.betas),
            f"learner.betas={learner.betas}: must be two numbers in [0, 1)",
        ),
        (
            lora.alpha <= 0,
            f"learner.lora.alpha={lora.alpha:g}: must be above 0, for it scales what is added",
        ),
        (
            lora.dropout != 0,
            f"learner.lora.dropout={lora.dropout:g}: must be 0. Scoring and update would each drop "
            "other elements, so that no ratio began at 1, and the engines sample with none dropped",
        ),
        (
            lora.publish == Publish.adapter and not lora.rank,
            "learner.lora.publish=adapter needs learner.lora.rank, e.g. 16",
        ),
        (
            (lora.publish == Publish.adapter) != (backend == "adapter") and backend != "auto",
            f"weights.backend={backend} does not go with learner.lora.publish={lora.publish}; use "
            "weights.backend=auto",
        ),
        (
            lora.publish == Publish.adapter and config.cluster.placement == "colocated",
            "learner.lora.publish=adapter does not go with cluster.placement=colocated: an engine "
            "that sleeps gives the model's own weights away. Use learner.lora.publish=merged",
        ),
        (
            lora.targets and not lora.rank,
            "learner.lora.targets needs learner.lora.rank, e.g. 16; with 0 all weights are trained",
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
    builds: list[Any] = [
        partial(r.build, getattr(config, node), node)
        for node, r in METHODS.items()
        if node != "credit"
    ]
    builds += [partial(credit_methods, config), partial(sources, config.data.train)]
    builds += [partial(f, config.verifier) for f in (answer_pattern, check_rewards)]
    problems = []
    for build in builds:
        try:
            build()
        except ConfigError as error:
            problems.append(str(error))
    if not problems:
        refusal = compatible(config.credit, config.objective, config.advantage, config.strength)
        problems += [refusal] if refusal else []
        strength = STRENGTHS.build(config.strength, "strength")
        if getattr(strength, "reads_audits", False) and not config.evaluation.audit:
            problems.append(
                f"strength={config.strength['name']} needs audits of the credit while it trains: "
                "set evaluation.audit, e.g. 5000, and evaluation.every"
            )
    return problems


def _batch(config: RunConfig) -> _Rules:
    train, rollout, evaluation = config.train, config.rollout, config.evaluation
    when = evaluation.every or evaluation.at_start or evaluation.at_end
    advantage = str(config.advantage["name"])
    needs_group = getattr(ADVANTAGES.find(advantage, "advantage").method, "needs_group", True)
    mini = train.prompts_per_mini_batch
    return [
        (
            train.steps == 0 and config.learner.ranks != 0,
            "train.steps=0 trains nothing; to evaluate a model, there is rlvr evaluate",
        ),
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
            train.keep_best
            and not (train.keep_best.startswith("evaluation/") and evaluation.every),
            f"train.keep_best={train.keep_best}: must be a figure of evaluations, such as "
            "evaluation/greedy/accuracy, with evaluation.every above 0",
        ),
        (
            evaluation.samples and evaluation.temperature <= 0,
            "evaluation.samples>0 needs evaluation.temperature above 0",
        ),
        (
            when and not config.data.eval and not evaluation.audit,
            "evaluation is asked for but data.eval names no file",
        ),
        (
            evaluation.audit and not when,
            "evaluation.audit>0 needs evaluation.every, evaluation.at_start or evaluation.at_end",
        ),
    ]


def _cluster(config: RunConfig) -> _Rules:
    cluster, backend, tp = config.cluster, config.weights.backend, config.rollout.tensor_parallel
    ranks, workers = config.learner.ranks or 0, config.rollout.workers or 0
    colocated = cluster.placement == "colocated"
    refusal = backend_class(backend).refusal(cluster)
    rules: _Rules = [
        (refusal, f"weights.backend={backend} {refusal}"),
        (
            (ranks < 1 and config.train.steps > 0) or workers < 1,
            f"learner.ranks={ranks} and rollout.workers={workers} on {cluster.gpus} GPUs: each "
            "needs at least one; lower the other or rollout.tensor_parallel",
        ),
        (
            workers < config.rollout.min_workers,
            f"rollout.min_workers={config.rollout.min_workers} of rollout.workers={workers}: there "
            "are not so many",
        ),
        (
            ranks % config.learner.sequence_parallel,
            f"learner.ranks={ranks} cannot be cut into groups of learner.sequence_parallel="
            f"{config.learner.sequence_parallel}",
        ),
    ]
    if cluster.gpus == 0:
        return rules
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
            colocated and ranks != workers * tp,
            f"cluster.placement=colocated: learner.ranks={ranks} must equal rollout.workers x "
            f"rollout.tensor_parallel = {workers * tp}",
        ),
    ]


def _numbers(node: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """The numbers at ``key`` and below."""
    if is_dataclass(node) or isinstance(node, dict):
        below = node.items() if isinstance(node, dict) else vars(node).items()
        for name, value in below:
            yield from _numbers(value, f"{key}.{name}".lstrip("."))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _numbers(value, f"{key}[{i}]")
    elif isinstance(node, int | float):
        yield key, node


def _get(config: RunConfig, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value
