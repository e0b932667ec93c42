from __future__ import annotations

import random

import torch

from rlvr.algorithm.overlong import overlong_penalty


def test_equals_the_definition(seed):
    limit, buffer, factor = random.randint(50, 90), random.randint(1, 40), random.random() * 2
    lengths = list(range(1, 120))
    expected = []
    for n in lengths:
        if n <= limit - buffer:
            expected.append(0.0)
        elif n <= limit:
            expected.append(factor * (limit - buffer - n) / buffer)
        else:
            expected.append(-factor)
    penalty = overlong_penalty(torch.tensor(lengths), limit, buffer, factor)
    torch.testing.assert_close(penalty, torch.tensor(expected), rtol=1e-6, atol=1e-6)
