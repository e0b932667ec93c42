"""Requests go where the fewest tokens wait."""

from __future__ import annotations

from rlvr.rollout.request import Request, Sampling
from rlvr.rollout.routing import shared_out


def request(name: str, prompt: int, most: int) -> Request:
    return Request(name, [1] * prompt, 0, Sampling(1.0, 1.0, 0, most, (1,)))


def test_equal_requests_are_dealt_out_evenly():
    batches = shared_out([request(str(i), 2, 8) for i in range(7)], [0, 0, 0])
    assert [[r.id for r in b] for b in batches] == [["0", "3", "6"], ["1", "4"], ["2", "5"]]


def test_a_loaded_worker_gets_nothing_until_the_others_have_caught_up():
    batches = shared_out([request(str(i), 1, 9) for i in range(4)], [25, 0])
    assert [len(b) for b in batches] == [1, 3]


def test_a_long_request_counts_for_its_length():
    sizes = [90, 10, 10, 10]
    batches = shared_out([request(str(n), 1, s - 1) for n, s in enumerate(sizes)], [0, 0])
    assert [[r.id for r in b] for b in batches] == [["0"], ["1", "2", "3"]]
