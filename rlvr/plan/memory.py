"""Bytes by part: of a learner rank, of an engine, of a node's host, and of a checkpoint."""

from dataclasses import dataclass
from functools import partial
from math import inf

import torch

from rlvr.algorithm.credit import Needs
from rlvr.config import RunConfig
from rlvr.learner.engine import deepspeed_config
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
HOST_STATE = 16  # a parameter's fp32 weight, Adam's moments and gradient, while away from the GPU
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


def memory(config: RunConfig, shape: Shape, gpu: Gpu | None, work: Workload) -> Memory:
    """Of a resolved ``config``; ``gpu`` is None on a cluster without."""
    rollout, tp, rank = config.rollout, config.rollout.tensor_parallel, _Rank(config, shape, work)
    there = gpu.memory if gpu else inf
    static, kept = rank.static(), rank.features()
    store = str(config.learner.features)
    if store == "auto":
        store = "device" if kept < 0.4 * (there - sum(static.values())) else "host"
    phases = rank.phases(kept if store == "device" else 0.0)
    learner = static | max(phases, key=lambda parts: sum(parts.values()))
    engine = {
        "weights": rank.item * shape.parameters / tp,
        "KV cache": rollout.cpu_cache_gib * 2.0**30,
    }
    if gpu:
        engine["vLLM"] = ENGINE
        engine["KV cache"] = rollout.memory_utilization * there - engine["weights"] - ENGINE
    sequences = engine["KV cache"] / shape.kv_bytes(rank.item, tp) / longest_sequence(config)
    host = rank.host(kept if store == "host" else 0.0)
    places: dict[str, tuple[float, float]] = {}
    if gpu:
        used, serving = sum(learner.values()), rollout.memory_utilization * there
        places = {"learner GPU": (used, there), "engine GPU": (serving, there)}
        if config.cluster.placement == "colocated":
            leaving = ("optimizer", "gradients", "buckets") if rank.mode == "during_rollout" else ()
            serving += sum(size for part, size in static.items() if part not in leaving)
            places = {"GPU sampling": (serving, there), "GPU learning": (used + ASLEEP, there)}
        places["host"] = (sum(host.values()), gpu.host_memory)
    return Memory(
        learner, engine, host, rank.checkpoint, sequences, places, store if kept else "none"
    )


class _Rank:
    """The sums of a learner rank."""

    def __init__(self, config: RunConfig, shape: Shape, work: Workload) -> None:
        self.config, self.shape, self.work = config, shape, work
        self.learner = config.learner
        self.stage, self.ranks = config.learner.zero_stage, config.learner.ranks or 1
        self.mode = config.learner.offload
        self.gpu = config.cluster.gpus > 0
        self.item: int = getattr(torch, config.model.dtype).itemsize
        adapters = shape.adapters(self.learner.lora)
        self.frozen = adapters > 0  # all that is no adapter
        self.whole = shape.parameters + adapters
        self.trained = adapters or shape.parameters
        self.shard, self.own = self.whole / self.ranks, self.trained / self.ranks
        self.bucket = BUCKET if self.gpu else min(BUCKET, self.trained)  # a CPU's if it is touched
        self.gradients = 4 * (self.own if self.stage >= 2 else self.trained)
        moments = 8 if self.learner.optimizer == "adamw" else 0
        self.checkpoint = (4 + moments) * self.trained  # with fp32 weights alone
        mini_batch = work.active * work.tokens / work.mini_batches / self.ranks
        # Else they come as the activations go.
        self.waiting = self.stage == 3 or mini_batch > self.learner.tokens_per_micro_batch

    def static(self) -> Parts:
        """What a rank holds as long as it lives."""
        always, adam = self.mode == "always", 8 if self.learner.optimizer == "adamw" else 0
        weights = self.item * (self.shard if self.stage == 3 else self.whole)
        optimizer = (4 + adam) * self.own if self.stage else adam * self.trained
        zero = deepspeed_config(self.learner, self.config.model)["zero_optimization"]
        several = self.gpu * (2 if zero["overlap_comm"] else 1)
        buckets = {0: 0, 3: 4 * self.bucket}.get(self.stage, several * self.item * self.bucket)
        return {
            "weights": 0 if always and self.stage == 3 else weights,
            "gradients": self.gradients if self.waiting and not always else 0,
            "optimizer": 0 if always else optimizer,
            "buckets": buckets,
            "reference": weights if self.work.reference and not self.frozen else 0,
            "context": CONTEXT if self.gpu else 0,
            "batch": 64 * self.work.tokens / self.ranks,
        }

    def phases(self, features: float) -> list[Parts]:
        """What comes on top: scoring, backward, reduction, optimizer step, publish."""
        item, shape, learner = self.item, self.shape, self.learner
        longest = self.config.data.max_prompt_tokens + self.config.rollout.max_response_tokens
        sp = learner.sequence_parallel
        tokens = max(learner.tokens_per_micro_batch, longest) // sp
        scored = max(learner.tokens_per_scoring_batch, longest) // sp
        traced = partial(
            activations,
            shape,
            dtype=str(self.config.model.dtype),
            rank=learner.lora.rank,
            targets=tuple(learner.lora.targets),
        )
        saved = learner.gradient_checkpointing
        update = traced(tokens, backward=True, checkpointing=saved, padded=not self.gpu)
        score = traced(scored, backward=False, checkpointing=False, padded=not self.gpu)
        chunks = _CHUNKS * min(learner.logits_mib * 2**20, 4 * tokens * shape.words)
        states, weight = item * tokens * shape.hidden, item * shape.embedding
        changed = 0 if self.frozen else weight
        head = chunks + (2 + 4 / item) * states + changed
        late = changed if shape.tied else 0  # the head's gradient waits for the embedding's
        gathered = item * min(self.whole, LIVE) if self.stage == 3 else 0
        reduced = self._reduced() if self.ranks > 1 else 0
        scoring = score.kept + score.working + 2 * item * scored * shape.hidden
        grown = {"gradients": self.gradients}
        if self.waiting or self.mode == "always":
            grown = {}
        step = 4 * min(self.own, LIVE if self.stage == 3 else inf) if self.stage else 0
        return [
            {"gathered": gathered, "activations": scoring, "head": chunks, "features": features},
            {
                "gathered": gathered,
                "activations": update.kept,
                "head and layer": max(update.working + states + late, head),
                "reduction": reduced if self.trained > BUCKET else 0,  # while the backward goes on
            },
            {"gathered": gathered, "reduction": reduced, **grown},
            {"step": 0 if self.mode == "always" else step, **grown},
            {"broadcast": BROADCAST * self.gpu, "gathered": 2 * weight * self.gpu},
        ]

    def _reduced(self) -> float:
        """Copies of a bucket on its way: flat, and in fp32; on a CPU the bucket itself too."""
        copies = 4
        if self.stage in (1, 2):
            copies = self.item * (1 if self.gpu else 2) + (4 if self.item < 4 else 0)
        return min(self.trained, BUCKET) * copies

    def features(self) -> float:
        """Hidden states that the scoring pass keeps for credit."""
        if Needs.HIDDEN not in self.work.needs:
            return 0.0
        tokens = self.work.scored * self.work.responses / self.ranks
        return self.item * tokens * self.shape.hidden

    def host(self, features: float) -> Parts:
        """Of a node; below ZeRO-3 every rank reads the whole model there first."""
        node, workers = self.config.cluster.gpus_per_node, self.config.rollout.workers or 1
        here = min(self.ranks, node or self.ranks)
        every = self.config.train.checkpoint_every
        state = 0 if self.mode == "none" else HOST_STATE * self.own
        state += self.item * self.shard if self.mode == "always" and self.stage == 3 else 0
        return {
            "processes": PROCESS * (here + min(workers, node or workers)),
            "features": features * here,
            "learner state": state * here,
            "checkpoint": self.checkpoint / self.ranks * here if every else 0,  # until written
            "loading": self.item * self.whole * here if self.stage < 3 else 0,
        }
