"""Requests go where the fewest tokens wait, and every one is answered once."""

from __future__ import annotations

import asyncio
import pickle
from dataclasses import replace

import numpy as np

from rlvr.errors import RolloutError
from rlvr.rollout.request import Request, Sampling
from rlvr.rollout.routing import Load, Routing, Sink, shared_out
from rlvr.types import Response

RESPONSE = Response(np.zeros(1, np.int32), np.zeros(1, np.float32), np.zeros(1, np.int32), "stop")


def request(name: str, prompt: int, most: int) -> Request:
    return Request(name, [1] * prompt, 0, Sampling(1.0, 1.0, 0, most, (1,)))


def test_equal_requests_are_dealt_out_evenly():
    batches = shared_out([request(str(i), 2, 8) for i in range(7)], [Load(), Load(), Load()])
    assert [[r.id for r in b] for b in batches] == [["0", "3", "6"], ["1", "4"], ["2", "5"]]


def test_a_loaded_worker_gets_nothing_until_the_others_have_caught_up():
    batches = shared_out([request(str(i), 1, 9) for i in range(4)], [Load(tokens=25), Load()])
    assert [len(b) for b in batches] == [1, 3]


def test_a_long_request_counts_for_its_length():
    sizes = [90, 10, 10, 10]
    batches = shared_out([request(str(n), 1, s - 1) for n, s in enumerate(sizes)], [Load(), Load()])
    assert [[r.id for r in b] for b in batches] == [["0"], ["1", "2", "3"]]


def test_a_turn_goes_where_the_turns_before_it_are_cached():
    first, second = Load(tokens=30), Load(tokens=20)
    turns = [replace(request(str(i), 1, 9), home=first) for i in range(3)]
    assert shared_out(turns, [first, second]) == [turns, []]
    crowded = Load(tokens=200)  # more than twice as much as the other, and the turn's own
    turns = [replace(turn, home=crowded) for turn in turns]
    assert shared_out(turns, [crowded, second]) == [[], turns]
    gone = [replace(turn, home=Load()) for turn in turns]
    assert [len(b) for b in shared_out(gone, [Load(), Load()])] == [2, 1]


def test_an_answer_says_where_its_tokens_are_cached():
    routing, load, sink = Routing(), Load(), asyncio.Queue()
    routing.add([request("a", 2, 8)], sink)
    routing.deal([load])
    routing.deliver(load, responses("a"))
    [(answered_for, _)] = sink.get_nowait()
    assert answered_for.home is load
    assert (
        "home" not in repr(answered_for) and pickle.loads(pickle.dumps(answered_for)).home is None
    )


def asked(routing: Routing, names: str) -> tuple[list[Request], Sink]:
    requests, sink = [request(name, 2, 8) for name in names], asyncio.Queue()
    routing.add(requests, sink)
    return requests, sink


def answered(sink: Sink) -> list[str]:
    return [r.id for _ in range(sink.qsize()) for r, _ in sink.get_nowait()]


def responses(names: str) -> list[tuple[str, Response]]:
    return [(name, RESPONSE) for name in names]


def test_what_a_dead_worker_has_not_answered_is_asked_of_others_and_answered_once():
    routing, dead, other = Routing(), Load(), Load()
    _, sink = asked(routing, "abcd")
    assert [len(batch) for batch in routing.deal([dead, other])] == [2, 2]
    routing.deliver(dead, responses("a"))
    assert routing.take_back(dead) == 1 and dead.tokens == 0
    assert [[r.id for r in batch] for batch in routing.deal([other])] == [["c"]]
    routing.deliver(dead, responses("ac"))  # too late
    assert answered(sink) == ["a"]
    routing.deliver(other, responses("bcd"))
    routing.deliver(other, responses("bcd"))
    assert answered(sink) == ["b", "c", "d"]
    assert other.tokens == 0


def test_requests_wait_for_a_worker_and_those_asked_before_go_first():
    routing, dead, next_one = Routing(), Load(), Load()
    asked(routing, "ab")
    routing.deal([dead])
    asked(routing, "cd")
    assert routing.deal([]) == []
    routing.take_back(dead)
    assert [[r.id for r in batch] for batch in routing.deal([next_one])] == [["a", "b", "c", "d"]]


def test_what_nobody_waits_for_is_asked_of_nobody():
    routing, busy = Routing(), Load()
    requests, sink = asked(routing, "ab")
    routing.deal([busy])
    more, _ = asked(routing, "c")
    assert routing.forget([*requests, *more], [Load(), busy]) == [[], ["a", "b"]]
    assert routing.deal([busy]) == [[]] and busy.tokens == 0
    routing.deliver(busy, responses("ab"))
    assert sink.empty()


def test_an_error_is_heard_once_by_everyone_it_concerns():
    routing, load = Routing(), Load()
    requests, first = asked(routing, "ab")
    _, second = asked(routing, "c")
    routing.deal([load])
    routing.fail(RolloutError("too long"), requests)
    assert (first.qsize(), second.qsize()) == (1, 0)
    routing.fail(RolloutError("lost"))
    assert (first.qsize(), second.qsize()) == (2, 1)
