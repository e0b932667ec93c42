"""The weight stream."""

from __future__ import annotations

from contextlib import contextmanager

from torch import nn

from rlvr.learner.lora import weights_of
from rlvr.weights.source import ShardedWeightSource


def network() -> nn.Module:
    """Parameters inside and outside of numbered layers, of two dtypes."""
    model = nn.Module()
    model.embed = nn.Embedding(7, 3)
    model.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(11))
    model.norm = nn.LayerNorm(3).bfloat16()
    model.head = nn.Linear(3, 7, bias=False)
    model.head.weight = model.embed.weight  # tied
    return model


def test_metadata_agrees_with_iteration_and_one_layer_is_whole_at_a_time():
    model, gathered = network(), []

    @contextmanager
    def gather(parameters):
        gathered.append(len(list(parameters)))
        yield

    source = ShardedWeightSource(weights_of(model), gather)
    metadata, tensors = source.metadata(), list(source)
    assert [m.name for m in metadata] == [name for name, _ in tensors]
    for meta, (_, tensor) in zip(metadata, tensors, strict=True):
        assert (meta.dtype, meta.shape) == (tensor.dtype, tuple(tensor.shape))
    assert "head.weight" not in {m.name for m in metadata}, "a tied weight travels once"
    assert max(gathered) == 2 and sum(gathered) == len(metadata)
