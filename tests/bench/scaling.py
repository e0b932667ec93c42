"""How the time of a step grows: python tests/bench/scaling.py

Real learner ranks and engines on a CPU, a thread each, one quantity varied at a time. The step is
the learner's (load, score, credit of delta, update), with rollout workers it is the rollout. An
exponent is the slope of a line through the medians on logarithmic axes: 1 is proportional.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import ray
from repeats import Repeats, table
from synthetic import save_qwen3, verified_groups

from rlvr.config import RunConfig
from rlvr.learner.group import LearnerGroup
from rlvr.loop.cluster import engine_options, learner_options
from rlvr.loop.resolve import resolved
from rlvr.rollout.pool import RolloutPool
from rlvr.rollout.request import Request, Sampling

GROUP_SIZE = 4


@dataclass(frozen=True)
class Case:
    """A batch, and who computes it."""

    response: int = 128
    groups: int = 4
    vocabulary: int = 8_000
    ranks: int = 1
    workers: int = 0  # 0: the learner's step; else the rollout's


def sweeps(tiny: bool) -> dict[str, list[Case]]:
    """The cases of each quantity."""
    cores = len(os.sched_getaffinity(0))
    one_and_all = sorted({1, 2, cores} if cores > 1 else {1})
    if tiny:
        return {"response": [Case(response=n) for n in (16, 32)]}
    return {
        "response": [Case(response=n) for n in (64, 128, 256, 512, 1024, 2048)],
        "groups": [Case(groups=n) for n in (2, 4, 8, 16, 32)],
        "vocabulary": [Case(vocabulary=n) for n in (8_000, 32_000, 152_000)],
        "ranks": [Case(groups=8, ranks=n) for n in one_and_all],
        "workers": [Case(groups=16, workers=n) for n in one_and_all],
    }


class Machine:
    """Learners and engines, made when a case first asks for them."""

    def __init__(self, folder: str, hidden: int, layers: int) -> None:
        self.folder, self.size = Path(folder), (hidden, layers)
        self.alive: LearnerGroup | RolloutPool | None = None
        self.key: tuple[int, int, int] | None = None
        self.calls = 0

    async def seconds(self, case: Case, repeats: int) -> Repeats:
        """Of the case's step."""
        key = case.vocabulary, case.ranks, case.workers
        if key != self.key:
            await self.close()
            self.alive, self.key = await self._start(case), key
        taken = []
        for _ in range(repeats + 1):
            started = time.perf_counter()
            await (self._rollout(case) if case.workers else self._step(case))
            taken.append(time.perf_counter() - started)
        return Repeats(taken[1:])

    async def _start(self, case: Case) -> LearnerGroup | RolloutPool:
        model = self.folder / str(case.vocabulary)
        if not model.exists():
            save_qwen3(model, *self.size, case.vocabulary)
        config = RunConfig()
        config.model.path, config.model.dtype = str(model), "float32"
        config.cluster.gpus_per_node, config.cluster.torch_threads = 0, 1
        config.credit = {"name": "delta"}
        config.learner.ranks, config.learner.zero_stage = case.ranks, 2
        config.rollout.workers = case.workers or 1
        config = resolved(config)
        config = replace(config, rollout=replace(config.rollout, engine={"max_model_len": 512}))
        started: LearnerGroup | RolloutPool = (
            RolloutPool(config, engine_options(config, None))
            if case.workers
            else LearnerGroup(config, 0, learner_options(config, None))
        )
        await started.start()
        return started

    async def _step(self, case: Case) -> None:
        learner = self.alive
        assert isinstance(learner, LearnerGroup)
        await learner.load(
            *verified_groups(case.groups, GROUP_SIZE, case.response, case.vocabulary)
        )
        await learner.score()
        await learner.assign_credit()
        await learner.update()

    async def _rollout(self, case: Case) -> None:
        pool = self.alive
        assert isinstance(pool, RolloutPool)
        sampling = Sampling(1.0, 1.0, 0, case.response, ())
        self.calls += 1
        requests = [
            Request(f"{self.calls}:{i}", [self.calls + 2, i // GROUP_SIZE + 2, 5], i, sampling)
            for i in range(case.groups * GROUP_SIZE)
        ]
        async for _ in pool.sample(requests):
            pass

    async def close(self) -> None:
        if self.alive is not None:
            await self.alive.close()


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """The slope of a least-squares line on logarithmic axes."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0]) if len(x) > 1 else float("nan")


async def measure(given: argparse.Namespace) -> str:
    hidden, layers = (64, 1) if given.tiny else (128, 2)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(folder, hidden, layers)
        for name, cases in sweeps(given.tiny).items():
            x = [getattr(case, name) for case in cases]
            taken = []
            for case in cases:
                taken.append(await machine.seconds(case, given.repeats))
                print(f"{case}: {taken[-1]:.3f} s", flush=True)
            slope = exponent(x, [t.median for t in taken])
            cells = "; ".join(f"{n:,}: {t:.2f}" for n, t in zip(x, taken, strict=True))
            rows.append([name, cells, f"{slope:.2f}"])
        await machine.close()
    return table(["varied", "seconds a step", "exponent"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="one sweep of two cases")
    given = parser.parse_args()
    ray.init("local", num_cpus=16, include_dashboard=False, log_to_driver=False)
    found = asyncio.run(measure(given))
    print(
        f"\nMedians of {given.repeats}, least and most in brackets; otherwise {Case()}\n\n{found}"
    )


if __name__ == "__main__":
    main()
