"""Bytes by part: of a learner rank, of an engine, of a node's host, and of a checkpoint."""

from dataclasses import dataclass

import torch

from rlvr.algorithm.credit import Needs
from rlvr.config import RunConfig
from rlvr.loop.resolve import longest_sequence
from rlvr.plan.activations import activations
from rlvr.plan.hardware import GB, Gpu
from rlvr.plan.shape import Shape
from rlvr.plan.workload import Workload

Parts = dict[str, float]  # bytes by name

BUCKET = 500_000_000  # DeepSpeed's reduce_bucket_size, elements
LIVE = 1_000_000_000  # its stage3_max_live_parameters, and sub_group_size
CONTEXT = 1.5 * GB  # CUDA, NCCL, cuBLAS and kernels of a process
ENGINE = 3 * GB  # of vLLM: the same, CUDA graphs, activations of a prefill, logits
ASLEEP = 1.5 * GB  # what an engine keeps while it sleeps
BROADCAST = 2 * GB  # two buffers of a publish
PROCESS = 3 * GB  # host memory of an actor: Python and libraries
_CHUNKS = 5  # slices of logits that are alive at once in the head's backward


@dataclass(frozen=True)
class Memory:
    """What each place needs, and what it has where that is known."""

    learner: Parts  # of a rank, at its worst moment
    engine: Parts  # of a GPU of an engine; empty without GPUs
    host: Parts  # of a node
    checkpoint: float
    sequences: float  # of full length, whose keys and values an engine holds
    places: dict[str, tuple[float, float]]  # what is used and what is there, by place and phase
    features: str  # where they wait: device, host, recompute; or none

    @property
    def fits(self) -> bool:
        """Whether every place has room, and an engine room for one sequence."""
        return self.sequences >= 1 and all(used <= there for used, there in self.places.values())


def offload_of(config: RunConfig) -> str:
    """none, during_rollout or always; a plain ``true`` means always."""
    value = config.learner.offload
    return {"True": "always", "False": "none"}.get(str(value), str(value))


def memory(config: RunConfig, shape: Shape, gpu: Gpu | None, work: Workload) -> Memory:
    """Of a resolved ``config``; ``gpu`` is None on a cluster without."""
    cluster, tp = config.cluster, config.rollout.tensor_parallel
    item = _itemsize(config)
    static = _static(config, shape, work)
    there = gpu.memory if gpu else torch.inf
    kept = _features(config, shape, work)
    room = 0.4 * (there - sum(static.values()))
    asked = str(config.learner.features)
    store = asked if asked != "auto" else "device" if kept < room else "host"
    phases = _phases(config, shape, kept if store == "device" else 0.0, bool(gpu))
    if "gradients" not in static and offload_of(config) != "always":
        for parts in phases[2:4]:  # they come as the activations go
            parts["gradients"] = _gradients(config, shape)
    worst: Parts = max(phases, key=lambda parts: sum(parts.values()))
    learner = static | worst
    weights = item * shape.parameters / tp
    budget = (
        config.rollout.memory_utilization * there
        if gpu
        else weights + (config.rollout.cpu_cache_gib * 2**30)
    )
    cache = budget - weights - (ENGINE if gpu else 0.0)
    engine = {"weights": weights, "KV cache": max(cache, 0.0)}
    if gpu:
        engine["engine"] = ENGINE
    sequences = cache * tp / (shape.kv_bytes(item) * longest_sequence(config))
    host = _host(config, shape, kept if store == "host" else 0.0)
    places: dict[str, tuple[float, float]] = {}
    if gpu and cluster.placement == "colocated":
        moved = "optimizer" if offload_of(config) == "during_rollout" else ""
        resting = sum(v for k, v in static.items() if k != moved)
        places["GPU while sampling"] = (sum(engine.values()) + resting, there)
        places["GPU while learning"] = (sum(learner.values()) + ASLEEP, there)
    elif gpu:
        places["learner GPU"] = (sum(learner.values()), there)
        places["engine GPU"] = (sum(engine.values()), there)
    if gpu:
        places["host"] = (sum(host.values()), gpu.host_memory)
    checkpoint = shape.parameters * (item + (12 if item == 2 or config.learner.zero_stage else 8))
    return Memory(learner, engine, host, checkpoint, sequences, places, store if kept else "none")


def _static(config: RunConfig, shape: Shape, work: Workload) -> Parts:
    """What a rank holds as long as it lives."""
    learner, item = config.learner, _itemsize(config)
    stage, ranks = learner.zero_stage, learner.ranks or 1
    always, gpu = offload_of(config) == "always", config.cluster.gpus > 0
    adam = 8 if learner.optimizer == "adamw" else 0
    whole, shard = shape.parameters, shape.parameters / ranks
    on_host = always and gpu
    bucket = BUCKET if gpu else min(BUCKET, whole)  # without a GPU only what is touched counts
    parts = {
        "weights": item * (shard if stage == 3 else whole),
        "optimizer": (4 + adam) * shard if stage else adam * whole,
        "buckets": {0: 0, 3: 4 * bucket}.get(stage, item * bucket if gpu else 0),
    }
    if on_host:
        parts["optimizer"] = 0
        parts["weights"] = 0 if stage == 3 else parts["weights"]
    elif stage == 3 or _several(config, work):
        parts["gradients"] = _gradients(config, shape)
    if work.reference:
        parts["reference"] = item * (shard if stage == 3 else whole)
    if gpu:
        parts["context"] = CONTEXT
    parts["batch"] = 64 * work.tokens / ranks
    return parts


def _phases(config: RunConfig, shape: Shape, features: float, gpu: bool) -> list[Parts]:
    """What comes on top, in each phase of a step."""
    learner, item, whole = config.learner, _itemsize(config), shape.parameters
    stage, ranks = learner.zero_stage, learner.ranks or 1
    sp = getattr(learner, "sequence_parallel", 1)
    longest = config.data.max_prompt_tokens + config.rollout.max_response_tokens
    tokens = max(learner.tokens_per_micro_batch, longest) // sp
    scored = max(learner.tokens_per_scoring_batch, longest) // sp
    dtype, padded = str(config.model.dtype), not gpu
    checkpointing = learner.gradient_checkpointing
    update = activations(
        shape, tokens, dtype, backward=True, checkpointing=checkpointing, padded=padded
    )
    score = activations(shape, scored, dtype, backward=False, checkpointing=False, padded=padded)
    chunk = min(learner.logits_mib * 2**20, 4 * tokens * shape.embedding / shape.hidden)
    states = tokens * shape.hidden
    head = states * (4 + 2 * item) + _CHUNKS * chunk + item * shape.embedding
    late = item * shape.embedding if shape.tied else 0.0  # the head's waits for the embedding's
    gathered = item * min(whole, LIVE) if stage == 3 else 0.0
    reduced = min(whole, BUCKET) * (4 + (item if stage in (1, 2) else 0)) if ranks > 1 else 0.0
    if stage in (1, 2) and not gpu:
        reduced += item * min(whole, BUCKET)
    step = 4 * (min(whole / ranks, LIVE) if stage == 3 else whole / ranks) if stage else 0.0
    if offload_of(config) == "always":
        step = 0.0
    backward = max(update.working + states * item + late, head)
    phases: list[Parts] = [
        {
            "gathered": gathered,
            "activations": score.kept + score.working + 2 * scored * shape.hidden * item,
            "head": _CHUNKS * chunk,
            "features": features,
        },
        {"gathered": gathered, "activations": update.kept, "head and layer": backward},
        {"gathered": gathered, "reduction": reduced},
        {"step": step},
    ]
    if whole > BUCKET:  # gradients are reduced while the backward goes on
        phases[1]["reduction"] = reduced
    if gpu:
        phases.append({"broadcast": BROADCAST, "gathered": 2 * item * shape.embedding})
    return phases


def _gradients(config: RunConfig, shape: Shape) -> float:
    ranks = config.learner.ranks or 1
    return 4 * shape.parameters / (ranks if config.learner.zero_stage >= 2 else 1)


def _several(config: RunConfig, work: Workload) -> bool:
    """Whether gradients wait from one micro-batch of a mini-batch to the next."""
    mini_batch = work.active * work.tokens / work.mini_batches / (config.learner.ranks or 1)
    return mini_batch > config.learner.tokens_per_micro_batch


def _features(config: RunConfig, shape: Shape, work: Workload) -> float:
    """Hidden states that a rank keeps from the scoring pass for credit."""
    if Needs.HIDDEN not in work.credit.needs:
        return 0.0
    ranks = config.learner.ranks or 1
    return work.scored * work.responses * shape.hidden * _itemsize(config) / ranks


def _host(config: RunConfig, shape: Shape, features: float) -> Parts:
    """A node's; every rank loads the whole model before it is sharded."""
    cluster, learner, item = config.cluster, config.learner, _itemsize(config)
    ranks, workers = learner.ranks or 1, config.rollout.workers or 1
    here = min(ranks, cluster.gpus_per_node or ranks)
    share = here / ranks * shape.parameters
    actors = here + min(workers, cluster.gpus_per_node or workers)
    parts = {"processes": PROCESS * actors, "features": features * here}
    if (mode := offload_of(config)) != "none":
        parts["optimizer"] = (16 if mode == "always" else 12) * share
    if mode == "always" and learner.zero_stage == 3:
        parts["weights"] = item * share
    parts["loading"] = item * shape.parameters * here
    return parts


def _itemsize(config: RunConfig) -> int:
    return int(getattr(torch, config.model.dtype).itemsize)
