"""On nodes that say that they have GPUs, Ray gives each actor what it should have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
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


LOST = """
import asyncio, json
import ray
from ray.cluster_utils import Cluster
from rlvr.config import RunConfig
from rlvr.errors import RunError
from rlvr.loop.cluster import reserve
from rlvr.loop.resolve import resolved

head = {"num_cpus": 4, "num_gpus": 4, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=head)
ray.init(cluster.address, log_to_driver=False)

def another():
    for attempt in range(4):  # on busy cores a node may need longer than the 30 s that Ray allows
        try:
            return cluster.add_node(num_cpus=4, num_gpus=4)
        except Exception:
            if attempt == 3:
                raise

other = another()

def configuration(placement, **keys):
    config = RunConfig()
    config.cluster.nodes, config.cluster.gpus_per_node = 2, 4
    config.cluster.placement, config.cluster.rejoin_s = placement, 0.0
    config.rollout.tensor_parallel = 2
    config.learner.sequence_parallel = keys.get("sequence_parallel", 1)
    return resolved(config)

async def left(config):
    try:
        return list(map(len, await placement.settled(config)))
    except RunError as error:
        return str(error)

async def main():
    global placement
    config = configuration("colocated")
    placement = await reserve(config)
    told = [await left(config)]
    cluster.remove_node(other)
    while sum(node["Alive"] for node in ray.nodes()) > 1:
        await asyncio.sleep(0.1)
    told += [await left(config), await left(configuration("colocated", sequence_parallel=8))]
    another()
    config.cluster.rejoin_s = 60.0
    return [*told, await left(config)]

print(json.dumps(asyncio.run(main())))
ray.shutdown()
cluster.shutdown()
"""


def test_when_a_machine_is_gone_ranks_and_engines_have_what_is_left():
    with tempfile.TemporaryDirectory() as own:  # where Ray says that it is there, to whoever comes
        done = subprocess.run(
            [sys.executable, "-c", LOST],
            cwd=ROOT,
            env={**os.environ, "RAY_ADDRESS": "", "RAY_TMPDIR": own},
            capture_output=True,
            text=True,
            timeout=280,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    both, one, none, again = json.loads(done.stdout.splitlines()[-1])
    assert both == again == [8, 4]
    assert one == [4, 2]
    assert "is gone" in none and "0 of 8 learner ranks (learner.sequence_parallel=8)" in none
