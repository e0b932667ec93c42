"""Where each request is: with a worker, or waiting for one that serves."""

import asyncio
import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from rlvr.errors import RunError
from rlvr.rollout.request import Request
from rlvr.types import Response

Sampled = list[tuple[Request, Response]]
Sink = asyncio.Queue[Sampled | RunError]  # of whoever asked


class Asking:
    """Requests of one caller: those without an answer are ``open``."""

    def __init__(self, ask: Callable[[Sequence[Request], Sink], None]) -> None:
        self.open: dict[str, Request] = {}
        self._ask = ask
        self._sink: Sink = asyncio.Queue()

    def put(self, requests: Sequence[Request]) -> None:
        """Ask them. Raises RunError if nobody will serve any more."""
        self._ask(requests, self._sink)
        self.open |= {request.id: request for request in requests}

    async def answers(self) -> Sampled:
        """The next responses, at least one. Raises RunError when there will be none."""
        sampled = await self._sink.get()
        if isinstance(sampled, RunError):
            raise sampled
        for request, _ in sampled:
            del self.open[request.id]
        return sampled


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
        batches = shared_out(self._waiting.values(), loads) if loads else []
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
        """Bring responses to whoever asked; what is not in ``load`` any more is dropped.

        The requests that come with them say that their tokens are cached there.
        """
        parcels: dict[Sink, Sampled] = {}
        for request_id, response in finished:
            if (request := load.pop(request_id)) is not None:
                parcel = parcels.setdefault(self._sinks.pop(request_id), [])
                parcel.append((replace(request, home=load), response))
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


def shared_out(requests: Iterable[Request], loads: Sequence[Load]) -> list[list[Request]]:
    """One batch a worker: each request goes to the one with the fewest outstanding tokens.

    One that continues another goes where that one's tokens are cached, unless this worker has more
    than twice as much to do.
    """
    batches: list[list[Request]] = [[] for _ in loads]
    tokens = [load.tokens for load in loads]
    number = {id(load): i for i, load in enumerate(loads)}
    least = [(own, i) for i, own in enumerate(tokens)]
    heapq.heapify(least)
    for request in requests:
        while least[0][0] != tokens[least[0][1]]:  # of before it was given more
            heapq.heappop(least)
        fewest, i = least[0]
        home = number.get(id(request.home))
        if home is not None and tokens[home] <= 2 * fewest + request.cost:
            i = home
        tokens[i] += request.cost
        heapq.heappush(least, (tokens[i], i))
        batches[i].append(request)
    return batches
