"""How idle engines are at each staleness: python tests/bench/overlap.py [--dynamic]

The real GroupSource in virtual time. Engines are a model: a decoding step takes FIXED_S plus
EACH_S for each response under way, and an engine has so many places. Lengths are lognormal with
a median of 3,000 tokens and cut at 20,000; half of their variance is the prompt's. The learner
takes a share of the time in which full engines would make its batch.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import math
import random
import selectors
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlvr.config import BatchOrder, RunConfig
from rlvr.data.stream import PromptStream
from rlvr.loop.groups import GroupSource
from rlvr.rollout.request import Request
from rlvr.types import Outcome, Prompt, Response, Verdict

ENGINES, PROMPTS, GROUP = 8, 64, 8
MEDIAN, SIGMA, LONGEST = 3000, 1.0, 20_000
FIXED_S, EACH_S = 0.006, 0.0002  # as of 8 B parameters in bfloat16 and contexts of 5k tokens
FIRST, LAST, STEPS = 5, 17, 23  # measured from the first to the last of so many steps


class VirtualTime(asyncio.SelectorEventLoop):
    """An event loop that does not wait: its clock jumps to the next moment."""

    def __init__(self) -> None:
        self._now = 0.0
        selector = selectors.DefaultSelector()
        super().__init__(selector)
        look = selector.select

        def jump(timeout: float | None = None) -> Any:
            if timeout is None:
                raise RuntimeError("nothing will happen any more")
            self._now += max(0.0, timeout)
            return look(0)

        selector.select = jump  # type: ignore[method-assign]

    def time(self) -> float:
        return self._now


@dataclass
class Work:
    """A request at an engine: ``end`` in decoding steps since the engine began."""

    request: Request
    length: int
    sink: asyncio.Queue[list[tuple[Request, Response]]]
    version: int = 0
    end: float = 0.0


@dataclass
class Engine:
    """All responses under way gain a token a step; the others wait, first come, first served."""

    places: int
    waiting: deque[Work] = field(default_factory=deque)
    running: list[tuple[float, int, Work]] = field(default_factory=list)
    steps: float = 0.0
    clock: float = 0.0
    idle_s: float = 0.0
    empty_s: float = 0.0  # summed over places
    tokens: float = 0.0
    version: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def advance(self) -> None:
        """Bring the counters up to now."""
        now, n = asyncio.get_running_loop().time(), len(self.running)
        passed, self.clock = now - self.clock, now
        self.idle_s += passed * (n == 0)
        self.empty_s += passed * (self.places - n)
        gained = passed / (FIXED_S + EACH_S * n)
        self.steps += gained
        self.tokens += gained * n

    def add(self, work: Work) -> None:
        self.waiting.append(work)
        self.news.set()

    async def serve(self) -> None:
        while True:
            self.news.clear()
            self.advance()
            while self.running and self.running[0][0] <= self.steps + 1e-6:
                work = heapq.heappop(self.running)[-1]
                versions = np.array([work.version, self.version])
                text = np.array([work.length])
                work.sink.put_nowait([(work.request, Response(text, text, versions, "stop"))])
            while self.waiting and len(self.running) < self.places:
                work = self.waiting.popleft()
                work.version, work.end = self.version, self.steps + work.length
                heapq.heappush(self.running, (work.end, id(work), work))
            patience = None
            if self.running:
                step_s = FIXED_S + EACH_S * len(self.running)
                patience = max(1e-9, (self.running[0][0] - self.steps) * step_s)
            try:
                await asyncio.wait_for(self.news.wait(), patience)
            except TimeoutError:
                pass


class Pool:
    """The model's engines, in the place of a RolloutPool: a request goes to the least loaded."""

    def __init__(self, places: int) -> None:
        self.engines = [Engine(places) for _ in range(ENGINES)]
        self._load = [0] * ENGINES

    async def sample(self, requests: Sequence[Request]) -> AsyncIterator[Any]:
        sink: asyncio.Queue[list[tuple[Request, Response]]] = asyncio.Queue()
        where = {}
        for request in requests:
            engine = self._load.index(min(self._load))
            self._load[engine] += 1
            where[request.id] = engine
            self.engines[engine].add(Work(request, length_of(request), sink))
        for _ in requests:
            sampled = await sink.get()
            self._load[where[sampled[0][0].id]] -= 1
            yield sampled


def length_of(request: Request) -> int:
    """The same for the same prompt and seed."""
    easy = random.Random(request.token_ids[0]).gauss(0, SIGMA * math.sqrt(0.5))
    own = random.Random(request.seed).gauss(0, SIGMA * math.sqrt(0.5))
    return max(1, min(LONGEST, round(MEDIAN * math.exp(easy + own))))


class Verifiers:
    """Half of the groups have spread, if dynamic sampling asks."""

    async def verify(self, items: Sequence[tuple[Prompt, str]]) -> list[Verdict]:
        good = [random.Random(p.id).random() < 0.5 and int(text) % 2 for p, text in items]
        return [Verdict(float(g), Outcome.CORRECT if g else Outcome.INCORRECT) for g in good]


class Lengths:
    """A response's text is its length."""

    def batch_decode(self, sequences: Any, *, skip_special_tokens: bool) -> list[str]:
        return [str(int(ids[0])) for ids in sequences]


@dataclass(frozen=True)
class Row:
    """What came out of one setting, between the first and the last measured step."""

    idle: float  # share of the engines' time without a response under way
    empty: float  # share of their places
    step_s: float
    lag: float  # versions, mean over responses of the first token's
    lag_max: int


async def simulated(places: int, share: float, staleness: int, order: str, dynamic: bool) -> Row:
    """One run; the learner takes ``share`` of the time in which full engines make its batch."""
    config = RunConfig()
    config.rollout.workers, config.rollout.max_running = ENGINES, places
    config.rollout.group_size = GROUP
    config.train.steps, config.train.prompts_per_step = STEPS, PROMPTS
    config.train.max_staleness, config.train.batch_order = staleness, BatchOrder(order)
    config.train.dynamic_sampling = dynamic
    prompts = [Prompt(f"p{i}", (i,), "", "", "exact") for i in range(100_000)]
    pool: Any = Pool(places)
    verifiers: Any = Verifiers()
    stream = PromptStream(prompts, seed=0, shuffle=False)
    source = GroupSource(config, stream, pool, verifiers, Lengths(), [])
    serving = [asyncio.create_task(engine.serve()) for engine in pool.engines]
    learner_rate = ENGINES * places / (FIXED_S + EACH_S * places) / share  # tokens a second
    clock, marks, lags = asyncio.get_running_loop(), [], []
    async for batch in source.batches(0):
        responses = [s.response for g in batch.groups for s in g.samples]
        await asyncio.sleep(sum(int(r.token_ids[0]) for r in responses) / learner_rate)
        for engine in pool.engines:
            engine.advance()
            engine.version = batch.step + 1
        if FIRST <= batch.step < LAST:
            lags += [batch.step - int(r.policy_version[0]) for r in responses]
        used = [(e.idle_s, e.empty_s / places) for e in pool.engines]
        marks.append((clock.time(), *np.sum(used, axis=0) / ENGINES))
    for task in serving:
        task.cancel()
    passed, idle, empty = np.subtract(marks[LAST], marks[FIRST])
    mean_lag = float(np.mean(lags))
    return Row(idle / passed, empty / passed, passed / (LAST - FIRST), mean_lag, max(lags))


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dynamic", action="store_true", help="half of the groups have no spread")
    dynamic = parser.parse_args().dynamic
    start = time.monotonic()
    print("| places for | learner | k | order | idle | empty places | step | lag, mean | max |")
    print("| ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for batches in (0.5, 4):
        for share in (0.5, 1.0):
            for staleness in (0, 1, 2, 4):
                for order in BatchOrder if staleness else [BatchOrder.prompt]:
                    places = round(batches * PROMPTS * GROUP / ENGINES)
                    with asyncio.Runner(loop_factory=VirtualTime) as runner:
                        row = runner.run(simulated(places, share, staleness, order, dynamic))
                    print(
                        f"| {batches:g} batches | {share:g} | {staleness} | {order} | "
                        f"{row.idle:.1%} | {row.empty:.1%} | {row.step_s:.0f} s | {row.lag:.2f} | "
                        f"{row.lag_max} |",
                        flush=True,
                    )
    print(f"\n{time.monotonic() - start:.0f} s to run")


if __name__ == "__main__":
    main()
