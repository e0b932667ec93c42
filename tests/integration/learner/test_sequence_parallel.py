"""Two ranks that share the tokens of every sequence compute what one rank computes.

Whole training steps on such ranks are among the shapes of ``test_update.py``, credit among those
of ``test_credit.py``.
"""

from __future__ import annotations

import pytest
import torch

CASES = {
    # heads for keys and values, lengths of sequences, places whose next token is asked for
    "an odd number of tokens": (2, [5, 7, 3], [3, 3, 4, 9, 14, 0]),
    "fewer heads for keys than ranks": (1, [6, 9, 3], [5, 6, 16, 17]),
    "one rank predicts nothing": (2, [9, 1, 4], [13, 12]),
    "a token each": (2, [2], [0]),
}


@pytest.fixture(scope="module")
def results(run_ranks):
    return run_ranks(2, {name: ("shared_sequences", *case) for name, case in CASES.items()})


@pytest.mark.parametrize("name", CASES)
def test_ranks_that_share_sequences_compute_what_one_computes(results, name):
    for rank in results:
        alone, shared = rank[name]["alone"], rank[name]["shared"]
        torch.testing.assert_close(shared, alone, rtol=1e-9, atol=1e-12)
    for a, b in zip(results[0][name]["shared"], results[1][name]["shared"], strict=True):
        assert torch.equal(a, b), "ranks that share sequences reply the same"
