"""The objects of a version hold every byte, as long as somebody needs them."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import ray
import torch
from torch import nn

from rlvr.learner.lora import weights_of
from rlvr.weights.backends.object_store import ObjectStoreBackend
from rlvr.weights.base import Meeting
from rlvr.weights.source import ShardedWeightSource


@pytest.fixture
def network() -> nn.Module:
    model = nn.Module()
    model.embed = nn.Embedding(7, 3)
    model.layers = nn.ModuleList(nn.Linear(300, 3) for _ in range(11))
    model.norm = nn.LayerNorm(3).bfloat16()
    model.scale = nn.Parameter(torch.tensor(0.5))
    return model


def backend(model: nn.Module, rank: int, gathered: list[int] | None = None) -> ObjectStoreBackend:
    def gather(parameters):
        if gathered is not None:
            gathered.append(len(list(parameters)))
        return nullcontext()

    return ObjectStoreBackend(
        ShardedWeightSource(weights_of(model), gather), rank, Meeting("", 0, 2)
    )


def test_a_version_arrives_whole_and_outlives_its_release_where_it_is_mapped(ray_here, network):
    from rlvr.weights.object_store_engine import ObjectStoreUpdateInfo

    sender = backend(network, rank=0)
    [info] = sender.send(1)
    arrived = {**info, "objects": ray.get(info["objects"])}
    views = dict(ObjectStoreUpdateInfo(**arrived).map())
    sent = {name: p.detach().clone() for name, p in network.named_parameters()}
    assert list(views) == list(sent)
    sender.release()
    with torch.no_grad():
        for p in network.parameters():
            p.zero_()
    list(sender.send(2))
    for name, tensor in sent.items():
        assert views[name].dtype == tensor.dtype and torch.equal(views[name], tensor)


def test_other_ranks_only_gather(network):
    gathered: list[int] = []
    [info] = backend(network, 1, gathered).send(1)
    assert not info["objects"]
    assert sum(gathered) == len(list(network.parameters()))
