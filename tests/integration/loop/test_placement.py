"""On a node that says it has four GPUs, Ray gives each actor what it should have."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

SCRIPT = """
import asyncio, json
import ray
from rlvr.config import RunConfig
from rlvr.learner.worker import LearnerWorker
from rlvr.loop.cluster import reserve
from rlvr.loop.resolve import resolved

class Engine:
    def gpus(self):
        return ray.get_runtime_context().get_accelerator_ids().get("GPU", [])

config = RunConfig()
config.cluster.gpus_per_node, config.cluster.placement = 4, "colocated"
config.rollout.tensor_parallel = 2
config = resolved(config)
ray.init("local", num_cpus=8, num_gpus=4, include_dashboard=False, log_to_driver=False)
placement = asyncio.run(reserve(config))
learners = [
    ray.remote(LearnerWorker).options(**o).remote(config, i, 0)
    for i, o in enumerate(placement.learners)
]
engines = [ray.remote(Engine).options(**o).remote() for o in placement.engines]
print(json.dumps(ray.get([a.gpus.remote() for a in (*learners, *engines)])))
"""


def test_colocated_ranks_have_a_gpu_each_and_engines_ask_for_none():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    *ranks, first, second = json.loads(done.stdout.splitlines()[-1])
    assert sorted(ranks) == [["0"], ["1"], ["2"], ["3"]]
    assert first == second == []
