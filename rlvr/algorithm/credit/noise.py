"""Random numbers that belong to a response, not to a rank or a packing."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from rlvr.algorithm.aggregation import segment_max
from rlvr.types import TokenBatch

_MASK = (1 << 64) - 1


def response_generators(
    batch: TokenBatch, seed: int, device: torch.device | str
) -> Iterator[torch.Generator]:
    """One generator a sequence, seeded by ``seed``, the policy version and the response."""
    version = batch.policy_version.double()
    newest = segment_max(version, batch.sequence_id, batch.num_sequences, empty=0.0)
    for v, response in zip(newest.long().tolist(), batch.response_id.tolist(), strict=True):
        state = seed & _MASK
        for part in (v, response):
            state = _mixed(state ^ part)
        yield torch.Generator(device).manual_seed(state >> 1)


def response_uniform(batch: TokenBatch, seed: int) -> Float[Tensor, "N"]:
    """Uniform in [0, 1) for every token, float64, on the CPU."""
    generators = response_generators(batch, seed, "cpu")
    draws = [
        torch.rand(length, generator=generator, dtype=torch.float64)
        for length, generator in zip(batch.response_length.tolist(), generators, strict=True)
    ]
    return torch.cat([torch.zeros(0, dtype=torch.float64), *draws])


def _mixed(x: int) -> int:
    """SplitMix64: neighbouring inputs give unrelated outputs."""
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)
