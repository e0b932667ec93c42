"""What a publish costs without a GPU: python tests/bench/publish.py

Random Qwen3 models, real learner ranks and engines on this machine. The yardstick is a copy of
the same bytes into fresh memory, made between the publishes. Memory is the sum of the shares (Pss)
of the learner ranks, the engines and Ray's own processes: the most during one further publish,
beyond what they held before it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import ray
import torch
from repeats import Repeats, table
from synthetic import save_qwen3

from rlvr.config import RunConfig
from rlvr.learner.group import LearnerGroup
from rlvr.loop.cluster import engine_options, learner_options
from rlvr.loop.resolve import resolved
from rlvr.rollout.pool import RolloutPool
from rlvr.weights.publish import WeightPublisher

MIB = 2**20


@dataclass(frozen=True)
class Model:
    """A random model, and the (ZeRO stage, learner ranks) that it is trained with."""

    name: str
    dtype: str
    hidden: int
    layers: int
    vocabulary: int
    learners: tuple[tuple[int, int], ...]

    def save(self, folder: str) -> None:
        """Write it as a Hugging Face folder."""
        size = save_qwen3(folder, self.hidden, self.layers, self.vocabulary, self.dtype)
        print(f"\n{self.name}: {size / 1e6:.0f} M parameters, {self.dtype}", flush=True)


MODELS = [
    Model("tiny", "float32", 128, 2, 512, ((0, 1),)),
    Model("small", "float32", 512, 6, 16_000, ((0, 1), (2, 2), (3, 2))),
    Model("large", "bfloat16", 1024, 24, 64_000, ((2, 1), (3, 2))),
]


def configuration(folder: str, dtype: str, stage: int, ranks: int, engines: int) -> RunConfig:
    """A run on the CPU; plain SGD, so that no optimizer state takes memory."""
    config = RunConfig()
    config.model.path, config.model.dtype = folder, dtype
    config.cluster.gpus_per_node, config.cluster.torch_threads = 0, 1
    config.learner.ranks, config.learner.zero_stage = ranks, stage
    config.learner.optimizer = "sgd"
    config.rollout.workers = engines
    config.rollout.engine = {"max_model_len": 128}
    return resolved(config)


class Peak:
    """The most that all processes of this Ray hold together while inside, in bytes."""

    def __enter__(self) -> Peak:
        self.before = self.bytes = held()
        self._inside = True
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._inside = False
        self._thread.join()

    def _watch(self) -> None:
        while self._inside:
            self.bytes = max(self.bytes, held())
            time.sleep(0.005)


def held() -> int:
    """Pss of every process below this one."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    total, waiting = 0, [os.getpid()]
    while waiting:
        waiting += children.get(pid := waiting.pop(), [])
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        total += 1024 * next(int(x.split()[1]) for x in rollup.splitlines() if x[:4] == "Pss:")
    return total


async def measure(model: Model, repeats: int, engines: int) -> None:
    """Print a row for each sharding and number of engines."""
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder)
        nbytes = sum(f.stat().st_size for f in Path(folder).glob("*.safetensors"))
        source = torch.ones(nbytes, dtype=torch.uint8)
        rows, copies = [], []
        config = configuration(folder, model.dtype, 2, 1, engines)
        pool = RolloutPool(config, engine_options(config, None))
        await pool.start()
        for stage, ranks in model.learners:
            config = configuration(folder, model.dtype, stage, ranks, engines)
            learners = LearnerGroup(config, 0, learner_options(config, None))
            await learners.start()
            for count in range(1, engines + 1):
                publisher = WeightPublisher(config.weights, learners.workers)
                await publisher.start(dict(list(pool.engines.items())[:count]))
                await publisher.publish(0)
                seconds, copied = [], []
                for version in range(1, repeats + 1):
                    started = time.perf_counter()
                    await publisher.publish(version)
                    seconds.append(time.perf_counter() - started)
                    copied += Repeats.seconds(source.clone, 1).values
                with Peak() as peak:
                    await publisher.publish(repeats + 1)
                beyond = (peak.bytes - peak.before) / nbytes
                took, copy = (Repeats([1000 * s for s in x]) for x in (seconds, copied))
                ratio = f"{took.median / copy.median:.2f}"
                layout = [str(stage), str(ranks), str(count)]
                rows.append([*layout, f"{took:.0f}", f"{copy:.0f}", ratio, f"{beyond:.1f}"])
                copies += copied
            await learners.close()
        await pool.close()
        print(f"{nbytes / MIB:.0f} MiB, copied in {1000 * Repeats(copies).median:.0f} ms; ", end="")
        print(f"medians of {repeats}, least and most in brackets\n")
        print(table(TITLES, rows), flush=True)


TITLES = ["ZeRO", "ranks", "engines", "publish, ms", "copy, ms", "publish ÷ copy", "memory ÷ model"]


def main() -> None:
    """Measure all models."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [m.name for m in MODELS]
    parser.add_argument("--models", nargs="+", choices=names, default=["small", "large"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--engines", type=int, default=2)
    given = parser.parse_args()
    ray.init("local", num_cpus=16, include_dashboard=False, log_to_driver=False)
    for model in MODELS:
        if model.name in given.models:
            asyncio.run(measure(model, given.repeats, given.engines))


if __name__ == "__main__":
    main()
