"""How long engines wait for tools: python tests/bench/turns.py [--turns K --tokens T]

One engine without a GPU, a random model, conversations of K turns of about T tokens, and a tool
that takes 0 to 2 seconds, drawn evenly, in the verifiers' processes. As ``loop/conversations.py``
has it, and in lock-step: all turns, then all replies, then all next turns. Idle is the engine while
nobody asks it anything, from the first request to the last response.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import ray
from repeats import table
from sections import replace_section
from synthetic import save_qwen3

from rlvr.config import RunConfig
from rlvr.loop.cluster import engine_options
from rlvr.loop.conversations import Conversations
from rlvr.loop.resolve import resolved
from rlvr.rollout.pool import RolloutPool
from rlvr.rollout.request import Request, Sampling, sample_seed
from rlvr.rollout.routing import Sampled
from rlvr.task import Prompt, Reply
from rlvr.verify.workers.pool import VerifierPool
from rlvr.verify.workers.work import Work

VOCABULARY = 1024


class Numbers:
    """Token ids as text, and back."""

    all_special_ids = ()
    unk_token_id = None

    def batch_decode(self, sequences: Any, *, skip_special_tokens: bool) -> list[str]:
        return [self.decode(own) for own in sequences]

    def decode(self, ids: Any, **_: Any) -> str:
        return " ".join(map(str, ids))

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": [int(word) for word in text.split()]}


class Engines(RolloutPool):
    """Knows how long it had nothing to do."""

    def watch(self) -> None:
        self.idle_s, self.asked_s, self._idle_since = 0.0, time.perf_counter(), None
        self._watching = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.005)
            if not any(worker.load.requests for worker in self._workers):
                self.idle_s += time.perf_counter() - before

    def idle(self) -> tuple[float, float]:
        """Share of the time since ``watch``, and that time."""
        self._watching.cancel()
        whole = time.perf_counter() - self.asked_s
        return self.idle_s / whole, whole


def asked(count: int, turns: int, tokens: int) -> list[tuple[Request, Prompt]]:
    """The same ones for both; a turn ends with one of the tokens that stop."""
    stops = tuple(range(VOCABULARY - round(VOCABULARY / tokens), VOCABULARY))
    sampling = Sampling(1.0, 1.0, 0, 3000, stops)
    found = []
    for i in range(count):
        prompt = Prompt(
            f"p{i}", [5, i % 200], "", str(turns), "exact", environment="bench.slow_tool"
        )
        seed = sample_seed(0, prompt.id, 0, 0)
        found.append(
            (Request(f"{time.monotonic_ns()}:{i}", prompt.token_ids, seed, sampling), prompt)
        )
    return found


async def interleaved(talks: Conversations, own: list[tuple[Request, Prompt]]) -> None:
    await talks.each(own, lambda sampled: None)


async def in_lock_step(talks: Conversations, own: list[tuple[Request, Prompt]]) -> None:
    """The same conversations; no reply is asked for before the last turn has come."""
    verifiers = talks._verifiers
    reply, waiting = verifiers.reply, []
    left = len(own)

    async def together(turns: Any) -> list[Reply]:
        answer = asyncio.get_running_loop().create_future()
        waiting.append((turns[0], answer))
        if len(waiting) == left:
            asyncio.create_task(everyone(list(waiting)))
            waiting.clear()
        return [await answer]

    async def everyone(round_: list[Any]) -> None:
        for (_, answer), said in zip(round_, await reply([t for t, _ in round_]), strict=True):
            answer.set_result(said)

    def finish(sampled: Sampled) -> None:
        nonlocal left
        left -= len(sampled)

    verifiers.reply = together  # type: ignore[method-assign]
    try:
        await talks.each(own, finish)
    finally:
        verifiers.reply = reply  # type: ignore[method-assign]


async def measure(config: RunConfig, count: int, turns: int, tokens: int) -> list[list[str]]:
    rollout = Engines(config, engine_options(config, None))
    work = Work(config.verifier, ["exact"], config.environment, ["bench.slow_tool"])
    paths = {"PYTHONPATH": str(Path(__file__).parents[1])}
    verifiers = VerifierPool(work, {"runtime_env": {"env_vars": paths}})
    await asyncio.gather(rollout.start(), verifiers.start())
    talks = Conversations(config, rollout, verifiers, Numbers())
    ways: dict[str, Callable[..., Awaitable[None]]] = {
        "each its own way": interleaved,
        "in lock-step": in_lock_step,
    }
    rows = []
    await interleaved(talks, asked(2, 1, 100))  # warm
    for name, way in ways.items():
        own = asked(count, turns, tokens)
        rollout.watch()
        await asyncio.wait_for(way(talks, own), 600)
        share, seconds = rollout.idle()
        rows.append([name, f"{share:.0%}", f"{seconds:.1f} s"])
    await asyncio.gather(rollout.close(), verifiers.close())
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--conversations", type=int, default=64)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=200)
    options = parser.parse_args()
    sys.path.append(str(Path(__file__).parents[1]))
    ray.init("local", num_cpus=2, include_dashboard=False, logging_level="ERROR")
    with tempfile.TemporaryDirectory() as folder:
        save_qwen3(folder, 256, 4, VOCABULARY, "float32")
        config = RunConfig()
        config.model.path, config.model.dtype = folder, "float32"
        config.cluster.gpus_per_node, config.data.template = 0, "none"
        config.environment.plain_template = "{observation}"
        config.environment.max_turns = options.turns + 1
        config.learner.ranks = config.rollout.workers = 1
        config.rollout.engine = {"max_model_len": 4096}
        config.verifier.processes = options.conversations
        sizes = options.conversations, options.turns, options.tokens
        rows = asyncio.run(measure(resolved(config), *sizes))
    lines = table(["conversations", "engine idle", "in all"], rows)
    told = (
        f"{options.conversations} conversations of {options.turns} turns of about {options.tokens}"
    )
    words = "tokens; a tool takes 0 to 2 s. One engine, two cores."
    title = ["## Turns", "", f"`python tests/bench/turns.py`: {told} {words}", "", lines]
    replace_section(Path(__file__).with_name("RESULTS.md"), "## Turns", title)
    print(lines)


if __name__ == "__main__":
    main()
