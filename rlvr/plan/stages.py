"""Seconds of a step by stage, each with what bounds it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from rlvr.algorithm.credit import Needs
from rlvr.algorithm.credit.steps import StepAdvantages
from rlvr.config import RunConfig
from rlvr.plan.hardware import EFFICIENCY, Gpu
from rlvr.plan.memory import HOST_STATE, Memory
from rlvr.plan.shape import Shape
from rlvr.plan.workload import Workload

_IMBALANCE = 1.05  # slowest rank or engine ÷ mean
_STREAMS = 4  # passes of a credit method over the kept hidden states
_TICKS = 256  # of the simulated rollout, in the longest response


@dataclass(frozen=True)
class Stage:
    """One stage of a step."""

    seconds: float
    bound: str  # FLOPs, HBM, network, host, latency


def stages(
    config: RunConfig, shape: Shape, gpu: Gpu, work: Workload, memory: Memory
) -> dict[str, Stage]:
    """Of a resolved ``config`` on GPUs, in the order of a step."""
    rollout = _rollout(config, shape, gpu, work, memory)
    learner = learner_stages(config, shape, gpu, work, memory.features)
    learner["credit"] = _with_continuations(learner["credit"], config, shape, gpu, work, memory)
    return {"rollout": rollout, **learner}


def learner_stages(
    config: RunConfig, shape: Shape, gpu: Gpu, work: Workload, features: str
) -> dict[str, Stage]:
    """Those of the learner ranks, whose features wait at ``features``."""
    learner = _Learner(config, shape, gpu, work)
    return {
        "score": learner.score(),
        "credit": learner.credit(features),
        "update": learner.update(),
        "publish": learner.publish(),
    }


def step_seconds(config: RunConfig, planned: dict[str, Stage]) -> float:
    """The stages one after the other, or the rollout beside the learner."""
    rollout = planned["rollout"].seconds
    learner = sum(stage.seconds for name, stage in planned.items() if name != "rollout")
    return max(rollout, learner) if config.train.max_staleness else rollout + learner


class _Learner:
    def __init__(self, config: RunConfig, shape: Shape, gpu: Gpu, work: Workload) -> None:
        self.config, self.shape, self.gpu, self.work = config, shape, gpu, work
        self.ranks = config.learner.ranks or 1
        self.sharded = config.learner.zero_stage == 3
        adapters = shape.adapters(config.learner.lora)
        self.trained = adapters or shape.parameters
        self.frozen = adapters > 0  # all that is no adapter
        self.own = self.trained / (self.ranks if config.learner.zero_stage else 1)  # in Adam
        self.item: int = getattr(torch, config.model.dtype).itemsize
        inside = self.ranks <= config.cluster.gpus_per_node
        self.link = (gpu.nvlink if inside else gpu.network) * EFFICIENCY.network
        self.flops = gpu.flops * gpu.training * self.ranks / _IMBALANCE
        self.sp = config.learner.sequence_parallel
        self.layers = shape.layer_flops(work.tokens, work.pairs)  # all groups, once
        self.head = shape.flops.response_token * work.responses

    def score(self) -> Stage:
        share = self.work.scored + (self.work.active if self.work.reference else 0.0)
        batches = self._batches(share, self.config.learner.tokens_per_scoring_batch)
        gathered = self.item * self.shape.parameters * batches / self.link if self.sharded else 0.0
        return self._gathering(share * (self.layers + self.head) / self.flops, gathered)

    def credit(self, store: str) -> Stage:
        """All methods one after the other, and where they are compared a pass of the head."""
        work, gpu = self.work, self.gpu
        kept = 2 * work.scored * work.responses * self.shape.hidden / self.ranks
        rate = gpu.pcie if store == "host" else gpu.hbm
        again, streams, heads = 0.0, 0, len(work.credit) > 1
        for credit in work.single:
            if Needs.EMBEDDINGS in credit.needs:  # forwards over the response, some of them halves
                tried = 4.0
                if hasattr(credit, "max_positions"):
                    most, stride = credit.max_positions or np.inf, getattr(credit, "stride", 1)
                    tried = min(most, work.response / stride)
                again += 1 + tried / 2
            if Needs.HIDDEN in credit.needs:
                streams += _STREAMS
        streams += heads
        if store == "recompute":
            again += streams
        flops = (again * work.active * self.layers + heads * work.active * self.head) / self.flops
        if not streams:
            return _longest(FLOPs=flops)
        read = streams * kept / rate
        return _longest(FLOPs=flops, **{"host" if store == "host" else "HBM": read})

    def update(self) -> Stage:
        learner, work, shape = self.config.learner, self.work, self.shape
        passes = 4 if learner.gradient_checkpointing else 3
        without = int(self.frozen)  # the weights' own gradients
        computed = (passes - without) * self.layers + (4 - without) * self.head
        flops = work.active * work.epochs * computed / self.flops
        steps = work.mini_batches * work.epochs
        batches = steps * max(
            1.0, self._batches(work.active, learner.tokens_per_micro_batch) / work.mini_batches
        )
        sent = 4.0 if self.ranks > 1 else 0.0  # gradients travel in fp32
        gathered = 2 * self.item if self.sharded else 0  # weights for forward and for backward
        reduce = sent * self.trained * batches / self.link
        gather = gathered * shape.parameters * batches / self.link
        if self.config.learner.offload == "always":
            nodes = max(1.0, self.ranks / self.config.cluster.gpus_per_node)
            adam = 28 * self.trained / nodes / EFFICIENCY.host_adam + 6 * self.own / self.gpu.pcie
        else:
            adam = 32 * self.own / (self.gpu.hbm * EFFICIENCY.hbm)
        if learner.zero_stage in (1, 2):  # everybody's weights come back
            adam += self.item * self.trained / self.link
        longest = self._gathering(flops, gather)
        return Stage(longest.seconds + reduce + steps * adam, longest.bound)

    def publish(self) -> Stage:
        cluster, size = self.config.cluster, 2 * self.shape.parameters
        link = self.gpu.nvlink if cluster.nodes == 1 else self.gpu.network
        travel = (2 if self.sharded else 1) * size / (link * EFFICIENCY.network)
        rest = EFFICIENCY.publish_s
        if cluster.placement == "colocated":
            rest += EFFICIENCY.sleep_s
        if self.config.learner.offload == "during_rollout":
            rest += 2 * HOST_STATE * self.own / self.gpu.pcie
        return Stage(travel + rest, "network" if travel > rest else "latency")

    def _gathering(self, flops: float, network: float) -> Stage:
        """Seconds of computing, with the weights gathered beside it or before."""
        longest = _longest(FLOPs=flops, network=network)
        return longest if self.gpu.overlaps else Stage(flops + network, longest.bound)

    def _batches(self, share: float, budget: int) -> float:
        """Micro-batches of a rank for a share of all tokens."""
        return share * self.work.tokens * self.sp / self.ranks / budget


def _rollout(config: RunConfig, shape: Shape, gpu: Gpu, work: Workload, memory: Memory) -> Stage:
    """One engine, simulated; beside a learner (staleness) its tail fills with the next batch."""
    tp, workers = config.rollout.tensor_parallel, config.rollout.workers or 1
    count = max(1, round(work.sampled_groups * work.group_size / workers * _IMBALANCE))
    run = _engine(config, shape, gpu, memory, work.lengths, work.prompt)
    prefill = shape.layer_flops(work.sampled_groups * work.prompt / workers, 0.0) / (
        gpu.flops * gpu.training * tp
    )
    if config.train.max_staleness:
        seconds, bound = run(3 * count)
        return Stage((seconds - run(count)[0]) / 2 + prefill, bound)
    seconds, bound = run(count)
    return Stage(seconds + prefill, bound)


def _with_continuations(
    credit: Stage, config: RunConfig, shape: Shape, gpu: Gpu, work: Workload, memory: Memory
) -> Stage:
    """And what the rollout workers sample from beginnings of responses, halves on average."""
    asking = [method for method in work.single if isinstance(method, StepAdvantages)]
    if not asking:
        return credit
    length = work.response
    each = sum(
        m.samples * m.expected_steps(length) * (1.0 if m.equal_groups else work.active)
        for m in asking
    )
    workers = config.rollout.workers or 1
    count = round(work.groups * work.group_size * each / workers * _IMBALANCE)
    halves, prompt = tuple(x / 2 for x in work.lengths), work.prompt + int(length / 2)
    seconds, bound = _engine(config, shape, gpu, memory, halves, prompt)(max(1, count))
    return Stage(credit.seconds + seconds, bound)


def _engine(
    config: RunConfig,
    shape: Shape,
    gpu: Gpu,
    memory: Memory,
    lengths: tuple[float, ...],
    prompt: int,
) -> Callable[[int], tuple[float, str]]:
    """(seconds, bound) of so many responses of these lengths on one of the run's engines."""
    rollout = config.rollout
    tp = rollout.tensor_parallel
    cache = memory.engine["KV cache"] / shape.kv_bytes(tensor_parallel=tp)
    return _simulated(shape, gpu, lengths, prompt, tp, rollout.max_running, int(cache))


@cache
def _simulated(
    shape: Shape,
    gpu: Gpu,
    lengths: tuple[float, ...],
    prompt: int,
    tp: int,
    slots: int,
    cache_tokens: int,
) -> Callable[[int], tuple[float, str]]:
    """(seconds, bound) of so many responses on one engine that decodes ``slots`` at once."""
    weights, width = 2 * shape.parameters / tp, shape.kv_bytes(tensor_parallel=tp)
    hbm, flops = gpu.hbm * EFFICIENCY.hbm, gpu.flops * EFFICIENCY.decoding * tp
    latency = EFFICIENCY.decode_step_s + (2 * shape.layers * 10e-6 if tp > 1 else 0.0)
    tick = max(1.0, max(lengths) / _TICKS)

    def decode(rows: int, context: float) -> tuple[float, str]:
        products = shape.layer_flops(rows, context) + shape.flops.response_token * rows
        return _bound(FLOPs=products / flops, HBM=(weights + context * width) / hbm)

    @cache
    def run(count: int) -> tuple[float, str]:
        order = np.random.default_rng(0).permutation(count)
        left = np.array(lengths)[order * len(lengths) // count].tolist()
        live: np.ndarray = np.zeros((0, 2))  # tokens to come, tokens cached
        spent = {"FLOPs": 0.0, "HBM": 0.0, "latency": 0.0}
        while left or len(live):
            cached = float(live[:, 1].sum())
            while (
                left
                and len(live) < slots
                and (cached + prompt < 0.9 * cache_tokens or not len(live))
            ):
                live = np.vstack([live, [left.pop(), prompt]])
                cached += prompt
            while cached > cache_tokens and len(live) > 1:  # the last to come waits
                left.append(float(live[-1, 0]))
                cached -= float(live[-1, 1])
                live = live[:-1]
            seconds, bound = decode(len(live), cached)
            spent["latency"] += tick * latency
            spent[bound] += tick * seconds
            live += [-tick, tick]
            live = live[live[:, 0] > 0]
        return sum(spent.values()), max(spent, key=lambda name: spent[name])

    return run


def _bound(**seconds: float) -> tuple[float, str]:
    bound = max(seconds, key=lambda name: seconds[name])
    return seconds[bound], bound


def _longest(**seconds: float) -> Stage:
    return Stage(*_bound(**seconds))
