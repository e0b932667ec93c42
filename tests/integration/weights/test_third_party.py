"""A weight backend of another package: found by its entry point, in every process."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from rlvr.config import RunConfig
from rlvr.learner.group import LearnerGroup
from rlvr.loop.cluster import engine_options, learner_options
from rlvr.loop.resolve import resolved
from rlvr.rollout.pool import RolloutPool
from rlvr.rollout.request import Request, Sampling
from rlvr.weights.base import WEIGHT_BACKENDS
from rlvr.weights.publish import WeightPublisher

ROOT = Path(__file__).parents[3]

BACKEND = '''
import os
import torch
from rlvr.weights.base import WEIGHT_BACKENDS, WeightBackend

@WEIGHT_BACKENDS.register("disk")
class DiskBackend(WeightBackend):
    """Writes a version to a file."""

    concurrent = False
    engine = "toy_engine:DiskEngine"

    def send(self, version):
        weights = {name: tensor.clone() for name, tensor in self.source}
        if self.rank == 0:
            self.path = os.path.join(os.path.dirname(__file__), f"version-{version}")
            torch.save(weights, self.path)
        yield {"path": getattr(self, "path", "")}

    def release(self):
        if not self.rank:
            os.remove(self.path)
'''

ENGINE = """
from dataclasses import dataclass
import torch
from vllm.distributed.weight_transfer.base import WeightTransferUpdateInfo
from rlvr.weights.object_store_engine import ObjectStoreEngine

@dataclass
class DiskUpdateInfo(WeightTransferUpdateInfo):
    path: str

    def map(self):
        return list(torch.load(self.path).items())

class DiskEngine(ObjectStoreEngine):
    update_info_cls = DiskUpdateInfo
"""


@pytest.fixture
def toy(tmp_path, monkeypatch) -> Path:
    """An installed package, as far as Python can tell."""
    (tmp_path / "toy.py").write_text(BACKEND)
    (tmp_path / "toy_engine.py").write_text(ENGINE)
    information = tmp_path / "toy-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[rlvr.weights]\ndisk = toy\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    WEIGHT_BACKENDS._entries.pop("disk", None)


def test_it_publishes_like_one_of_our_own(ray_here, tiny_model, toy):
    config = RunConfig()
    config.model.path, config.model.dtype = tiny_model(True), "float32"
    config.cluster.gpus_per_node = 0
    config.learner.ranks = 2
    config.rollout.engine = {"max_model_len": 64}
    config.weights.backend = "disk"
    config = resolved(config)
    assert "disk" in WEIGHT_BACKENDS.names()
    learner, engine = learner_options(config, None), engine_options(config, None)
    for options in (*learner, *engine):
        paths = [str(toy), str(ROOT), os.environ.get("PYTHONPATH", "")]
        options["runtime_env"]["env_vars"]["PYTHONPATH"] = os.pathsep.join(filter(None, paths))

    async def versions() -> set[int]:
        pool = RolloutPool(config, engine)
        learners = LearnerGroup(config, 0, learner)
        try:
            await asyncio.gather(pool.start(), learners.start())
            publisher = WeightPublisher(config.weights, learners.workers)
            await publisher.start(pool.engines)
            await publisher.publish(7)
            request = Request("r", [5, 6], 0, Sampling(1.0, 1.0, 0, 8, (1,)))
            [[(_, response)]] = [sampled async for sampled in pool.sample([request])]
            return {int(v) for v in response.policy_version}
        finally:
            await pool.close()
            await learners.close()

    assert asyncio.run(versions()) == {7}
    assert not list(toy.glob("version-*")), "released"
