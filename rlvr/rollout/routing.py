"""Where each request is: with a worker, or waiting for one that serves."""

import asyncio
import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rlvr.errors import RunError
from rlvr.rollout.request import Request
from rlvr.types import Response

Sampled = list[tuple[Request, Response]]
Sink = asyncio.Queue[Sampled | RunError]  # of whoever asked


@dataclass(eq=False)
class Load:
    """What one worker has been asked and has not answered."""

    requests: dict[str, Request] = field(default_factory=dict)
    tokens: int = 0  # that these may come to hold

    def put(self, request: Request) -> None:
        self.requests[request.id] = request
        self.tokens += request.cost

    def pop(self, request_id: str) -> Request | None:
        if (request := self.requests.pop(request_id, None)) is not None:
            self.tokens -= request.cost
        return request


class Routing:
    """A request waits or is in one load, and its response reaches its sink once."""

    def __init__(self) -> None:
        self._sinks: dict[str, Sink] = {}
        self._waiting: dict[str, Request] = {}

    def add(self, requests: Iterable[Request], sink: Sink) -> None:
        """Let ``requests`` wait for a worker."""
        for request in requests:
            self._sinks[request.id] = sink
            self._waiting[request.id] = request

    def deal(self, loads: Sequence[Load]) -> list[list[Request]]:
        """Put what waits into ``loads``, if there are any; returns what each got."""
        batches = shared_out(
            self._waiting.values() if loads else (), [load.tokens for load in loads]
        )
        for load, batch in zip(loads, batches, strict=True):
            for request in batch:
                load.put(self._waiting.pop(request.id))
        return batches

    def take_back(self, load: Load) -> int:
        """Let all that is in ``load`` wait again, before what waits already; returns how many."""
        taken, load.requests, load.tokens = load.requests, {}, 0
        self._waiting = taken | self._waiting
        return len(taken)

    def deliver(self, load: Load, finished: Iterable[tuple[str, Response]]) -> None:
        """Bring responses to whoever asked; what is not in ``load`` any more is dropped."""
        parcels: dict[Sink, Sampled] = {}
        for request_id, response in finished:
            if (request := load.pop(request_id)) is not None:
                parcels.setdefault(self._sinks.pop(request_id), []).append((request, response))
        for sink, parcel in parcels.items():
            sink.put_nowait(parcel)

    def forget(self, requests: Iterable[Request], loads: Sequence[Load]) -> list[list[str]]:
        """Nobody waits for ``requests`` any more; returns the ids of those in each load."""
        ids = [r.id for r in requests if self._sinks.pop(r.id, None) is not None]
        for i in ids:
            self._waiting.pop(i, None)
        return [[i for i in ids if load.pop(i) is not None] for load in loads]

    def fail(self, error: RunError, requests: Iterable[Request] | None = None) -> None:
        """Tell whoever waits for ``requests``, or for any."""
        ids = self._sinks if requests is None else (r.id for r in requests)
        for sink in {self._sinks[i] for i in ids if i in self._sinks}:
            sink.put_nowait(error)


def shared_out(requests: Iterable[Request], load: Sequence[int]) -> list[list[Request]]:
    """One batch a worker: each request goes to the one with the fewest outstanding tokens.

    Args:
        load: tokens outstanding at each worker.
    """
    batches: list[list[Request]] = [[] for _ in load]
    least = [(tokens, i) for i, tokens in enumerate(load)]
    heapq.heapify(least)
    for request in requests:
        tokens, i = least[0]
        heapq.heapreplace(least, (tokens + request.cost, i))
        batches[i].append(request)
    return batches
