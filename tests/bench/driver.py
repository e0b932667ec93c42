"""Responses a second that the driver can pass on: python tests/bench/driver.py [--profile]

Recorded solutions of GSM8K in the place of engines: actors answer at once. Ray's calls, the pool,
the group source, decoding, advantages and the batches of the ranks are real; verdicts are recorded
as well. Every engine of a shape has its own calls, but several share a process. Prints the median,
the least and the most of five measurements of each setting, the processor time for a response, of
the driver's own thread and with Ray's, which other work on the machine changes less, and the memory
before, amid and after. It takes two minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import json
import pstats
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import ray
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rlvr.algorithm.advantages import Grpo
from rlvr.config import BatchOrder, RunConfig
from rlvr.data.stream import PromptStream
from rlvr.learner.batching import rank_batches
from rlvr.loop.groups import GroupSource
from rlvr.rollout import pool as rollout
from rlvr.rollout.request import Request
from rlvr.types import Outcome, Prompt, Response, Verdict

RECORDED = Path(__file__).parents[1] / "data" / "gsm8k.jsonl"
GROUP, PROMPT_TOKENS, PARTS = 8, 64, 5


@dataclass(frozen=True)
class Shape:
    """Eight GPUs a node, half of them engines and half ranks."""

    nodes: int
    prompts: int  # a step
    steps: int  # of a measurement
    staleness: int

    @property
    def engines(self) -> int:
        return 4 * self.nodes

    @property
    def all_steps(self) -> int:
        return 1 + self.staleness + PARTS * self.steps


class Replay:
    """The actor: engines that answer at once."""

    def __init__(self, solutions: list[np.ndarray], engines: int) -> None:
        self._responses = [
            Response(ids, np.zeros(len(ids), np.float32), np.zeros(len(ids), np.int32), "stop")
            for ids in solutions
        ]
        self._finished: list[list[tuple[str, Response]]] = [[] for _ in range(engines)]
        self._news = [asyncio.Event() for _ in range(engines)]

    async def submit(self, engine: int, requests: list[Request]) -> None:
        known = self._responses
        self._finished[engine] += [(r.id, known[(r.seed or 0) % len(known)]) for r in requests]
        self._news[engine].set()

    async def collect(self, engine: int, wait_s: float) -> list[tuple[str, Response]]:
        if not self._finished[engine]:
            self._news[engine].clear()
            try:
                await asyncio.wait_for(self._news[engine].wait(), wait_s)
            except TimeoutError:
                pass
        finished, self._finished[engine] = self._finished[engine], []
        return finished

    async def state(self, engine: int) -> dict[str, float]:
        return {"steps": 0, "idle_s": 0.0}


class ReplayPool(rollout.RolloutPool):
    """The real pool, on engines that share a few actors."""

    def __init__(self, config: RunConfig, actors: Sequence[Any]) -> None:
        super().__init__(config, [])
        self._actors = actors

    async def start(self) -> None:
        for i in range(self._config.rollout.workers or 1):
            own, number = self._actors[i % len(self._actors)], i // len(self._actors)
            calls = {
                name: SimpleNamespace(remote=partial(getattr(own, name).remote, number))
                for name in ("submit", "collect", "state")
            }
            self._workers.append(rollout._Worker(i, SimpleNamespace(**calls)))
            self._serve(self._workers[-1])

    async def close(self) -> None:
        collecting = [task for worker in self._workers for task in worker.tasks]
        for task in collecting:
            task.cancel()
        await asyncio.gather(*collecting, return_exceptions=True)


class RecordedVerdicts:
    """In the place of the verifiers: right are texts of even length."""

    async def verify(self, items: Sequence[tuple[Prompt, str]]) -> list[Verdict]:
        right, wrong = Verdict(1.0, Outcome.CORRECT), Verdict(0.0, Outcome.INCORRECT)
        return [wrong if len(text) % 2 else right for _, text in items]


def recorded() -> tuple[PreTrainedTokenizerFast, list[np.ndarray]]:
    """A tokenizer of words, and the solutions in it."""
    texts = [json.loads(line)["solution"] for line in RECORDED.read_text().splitlines()]
    words = sorted({word for text in texts for word in text.split()})
    vocabulary = {word: i for i, word in enumerate(["<pad>", *words])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>")
    return tokenizer, [np.array(core.encode(text).ids, np.int32) for text in texts]


async def rates(shape: Shape, actors: Sequence[Any], tokenizer: Any) -> tuple[list[float], int]:
    """Responses a second in each of the measurements, after a first batch; MiB in their midst."""
    config = RunConfig()
    config.rollout.workers, config.rollout.group_size = shape.engines, GROUP
    config.train.steps = shape.all_steps
    config.train.prompts_per_step = shape.prompts
    config.train.max_staleness = shape.staleness
    if shape.staleness:
        config.train.batch_order = BatchOrder.finished
    pool = ReplayPool(config, actors)
    await pool.start()
    ids = list(range(PROMPT_TOKENS))
    stream = PromptStream([Prompt(f"p{i}", ids, "", "", "") for i in range(10_000)], seed=0)
    verdicts: Any = RecordedVerdicts()
    source = GroupSource(config, stream, pool, verdicts, tokenizer, [0])
    found, begun, count, amid = [], 0.0, 0, 0
    async for batch in source.batches(0):
        rank_batches(
            batch.groups,
            batch.advantages(Grpo()),
            ranks=shape.engines,
            groups_per_mini_batch=shape.prompts,
        )
        now = time.monotonic()
        if batch.step > shape.staleness:  # the first ones were sampled at once
            count += 1
            if count % shape.steps == 0:
                found.append(shape.steps * shape.prompts * GROUP / (now - begun))
                amid = memory_mib() if len(found) == PARTS // 2 else amid
        if batch.step == shape.staleness or (count and count % shape.steps == 0):
            begun = now
    await pool.close()
    return found, amid


def memory_mib() -> int:
    """What the driver holds now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 // 2**20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", action="store_true", help="where the driver's time goes")
    parser.add_argument("--quick", action="store_true", help="one node's shape only")
    parser.add_argument("--actors", type=int, default=2, help="processes that hold the engines")
    options = parser.parse_args()
    shapes = [
        Shape(8, 512, 4, 0),
        Shape(8, 512, 4, 1),
        Shape(64, 2048, 2, 0),
        Shape(64, 2048, 2, 1),
    ]
    if options.quick:
        shapes = [Shape(1, 64, 2, 0), Shape(1, 64, 2, 1)]
    tokenizer, solutions = recorded()
    torch.set_num_threads(1)  # as rlvr.train does, and this
    gc.freeze()
    ray.init("local", num_cpus=2, include_dashboard=False, logging_level="ERROR")
    try:
        actor: Any = ray.remote(Replay).options(num_cpus=0)
        tokens = statistics.mean(map(len, solutions))
        print(f"{options.actors} processes with engines, {tokens:.0f} tokens a response\n")
        titles = "nodes | engines | k | responses a step | a second | least | most | CPU | MiB"
        print(f"| {titles} |")
        print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |")
        for shape in shapes:
            own = -(-shape.engines // options.actors)
            actors = [actor.remote(solutions, own) for _ in range(options.actors)]
            profile = cProfile.Profile()
            memory, began = [memory_mib()], (time.thread_time(), time.process_time())
            if options.profile:
                profile.enable()
            found, amid = asyncio.run(rates(shape, actors, tokenizer))
            profile.disable()
            memory += [amid, memory_mib()]
            passed = shape.all_steps * shape.prompts * GROUP
            own_us = 1e6 * (time.thread_time() - began[0]) / passed
            all_us = 1e6 * (time.process_time() - began[1]) / passed
            for each in actors:  # what they hold back for this shape is not the next one's
                ray.kill(each)
            print(
                f"| {shape.nodes} | {shape.engines} | {shape.staleness} | "
                f"{shape.prompts * GROUP:,} | {statistics.median(found):,.0f} | "
                f"{min(found):,.0f} | {max(found):,.0f} | {own_us:.0f}, {all_us:.0f} µs | "
                f"{' → '.join(map(str, memory))} |",
                flush=True,
            )
            if options.profile:
                pstats.Stats(profile).sort_stats("tottime").print_stats(28)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
