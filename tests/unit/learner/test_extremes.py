"""The tokens that stand out, whatever the ranks that hold them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rlvr.learner.batching import rank_batches
from rlvr.learner.extremes import extreme_tokens, merged_extremes


@pytest.fixture
def drawn(seed, draw_groups):
    """Groups, an advantage per response (one of them 0) and a coefficient per response token."""
    generator = np.random.default_rng(seed)
    groups, _ = draw_groups(generator, [[0, 0, 0]] * 4)
    lengths = [len(s.response.token_ids) for g in groups for s in g.samples]
    coefficients = [generator.random(n).round(1) for n in lengths]  # with ties
    advantages = generator.choice([-1.0, 1.0], 12)
    advantages[int(generator.integers(12))] = 0.0
    return groups, advantages, coefficients


def on_ranks(groups, advantages, coefficients, ranks, count):
    found = []
    for batch in rank_batches(groups, advantages, ranks=ranks, groups_per_mini_batch=2):
        own = [coefficients[i] for i in batch.response_id.tolist()]
        c = torch.tensor(np.concatenate([np.zeros(0), *own]))
        found.append(extreme_tokens(batch, c, count))
    return merged_extremes(found, count)


@pytest.mark.parametrize("ranks", [1, 2, 5])
@pytest.mark.parametrize("count", [1, 4, 100])
def test_the_largest_and_the_smallest(drawn, ranks, count):
    groups, advantages, coefficients = drawn
    tokens = on_ranks(groups, advantages, coefficients, ranks, count)
    every = [
        (c, i, t)
        for i, row in enumerate(coefficients)
        for t, c in enumerate(row.tolist())
        if advantages[i]
    ]
    values = sorted((c for c, _, _ in every), reverse=True)
    expected = values if len(values) <= 2 * count else values[:count] + values[-count:]
    assert tokens.coefficient.tolist() == expected
    places = list(zip(tokens.coefficient, tokens.response, tokens.position, strict=True))
    assert set(places) <= set(every) and len(set(places)) == len(places)


def test_uniform_coefficients_have_none(drawn):
    groups, advantages, coefficients = drawn
    uniform = [np.ones_like(c) for c in coefficients]
    assert not len(on_ranks(groups, advantages, uniform, 2, 3).response)
    assert not len(on_ranks(groups, 0 * advantages, coefficients, 2, 3).response)
