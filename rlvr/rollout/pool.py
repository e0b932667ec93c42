"""The rollout workers as one: routes requests, gathers responses, reports failures."""

import asyncio
import heapq
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.actor import ActorHandle

from rlvr.config import RunConfig
from rlvr.errors import RolloutError
from rlvr.remote import answers
from rlvr.rollout.request import Request
from rlvr.rollout.worker import RolloutWorker
from rlvr.types import Response

Sampled = list[tuple[Request, Response]]

_POLL_S = 5.0  # how long a worker may hold an unanswered ``collect``


@dataclass
class _Worker:
    name: str
    actor: ActorHandle
    outstanding: dict[str, Request] = field(default_factory=dict)
    load: int = 0  # tokens that these may come to hold
    collecting: asyncio.Task[None] | None = None

    def put(self, request: Request) -> None:
        self.outstanding[request.id] = request
        self.load += request.cost

    def pop(self, request_id: str) -> Request | None:
        if (request := self.outstanding.pop(request_id, None)) is not None:
            self.load -= request.cost
        return request


class RolloutPool:
    """Drives the rollout workers from one asyncio loop.

    Args:
        config: the run's, resolved.
        options: Ray options (resources, placement, environment) of each worker.
    """

    def __init__(self, config: RunConfig, options: Sequence[dict[str, Any]]) -> None:
        self._config = config
        self._options = options
        self._workers: list[_Worker] = []
        self._sinks: dict[str, asyncio.Queue[Sampled | RolloutError]] = {}

    @property
    def actors(self) -> list[ActorHandle]:
        return [w.actor for w in self._workers]

    async def start(self, gpus: Sequence[Sequence[str]] = ()) -> None:
        """Start all engines at once, each on the GPUs that Ray gives it, or on its own ``gpus``."""
        actor_class: Any = ray.remote(RolloutWorker)
        self._workers = [
            _Worker(f"rollout worker {i}", actor_class.options(**o).remote(self._config))
            for i, o in enumerate(self._options)
        ]
        await answers(
            {
                w.name: w.actor.start.remote(gpus[i] if gpus else ())
                for i, w in enumerate(self._workers)
            },
            within_s=self._config.rollout.start_timeout_s,
            key="rollout.start_timeout_s",
            error=RolloutError,
        )
        for worker in self._workers:
            worker.collecting = asyncio.create_task(self._collect(worker))

    async def sample(self, requests: Sequence[Request]) -> AsyncIterator[Sampled]:
        """Yield responses as they finish, several at a time, until each request has its own."""
        sink: asyncio.Queue[Sampled | RolloutError] = asyncio.Queue()
        missing = len(requests)
        try:
            await self._route(requests, sink)
            while missing:
                sampled = await sink.get()
                if isinstance(sampled, RolloutError):
                    raise sampled
                missing -= len(sampled)
                yield sampled
        finally:
            if missing:
                await self._abandon(requests)

    async def sleep(self) -> None:
        """All engines give their memory away; they serve again when both have happened:
        ``wake_up`` and the next publish."""
        await self._control("sleep")

    async def wake_up(self, tag: str) -> None:
        """All engines take memory back: for the ``weights`` or for the ``kv_cache``."""
        await self._control("wake_up", tag)

    async def _control(self, name: str, *arguments: Any) -> None:
        await self._answers(
            {w.name: w.actor.control.remote(name, *arguments) for w in self._workers}
        )

    async def close(self) -> None:
        collecting = [w.collecting for w in self._workers if w.collecting is not None]
        for task in collecting:
            task.cancel()
        for worker in self._workers:
            ray.kill(worker.actor)
        await asyncio.gather(*collecting, return_exceptions=True)
        self._workers = []

    async def _route(
        self, requests: Sequence[Request], sink: asyncio.Queue[Sampled | RolloutError]
    ) -> None:
        batches = shared_out(requests, [w.load for w in self._workers])
        submitted: dict[str, Any] = {}
        for worker, batch in zip(self._workers, batches, strict=True):
            for request in batch:
                self._sinks[request.id] = sink
                worker.put(request)
            if batch:
                submitted[worker.name] = worker.actor.submit.remote(batch)
        await self._answers(submitted)

    async def _abandon(self, requests: Iterable[Request]) -> None:
        ids = {r.id for r in requests}
        for worker in self._workers:
            if mine := [i for i in worker.outstanding if i in ids]:
                worker.actor.control.remote("abort", mine)
                for i in mine:
                    worker.pop(i)
                    self._sinks.pop(i, None)

    async def _collect(self, worker: _Worker) -> None:
        """Bring a worker's responses to whoever asked for them, and its death to everybody."""
        try:
            while True:
                [finished] = await self._answers(
                    {worker.name: worker.actor.collect.remote(_POLL_S)}
                )
                if not finished and worker.outstanding:
                    await self._check_progress(worker)
                self._deliver(worker, finished)
        except RolloutError as error:
            for sink in set(self._sinks.values()):
                sink.put_nowait(error)

    async def _check_progress(self, worker: _Worker) -> None:
        limit = self._config.rollout.stall_timeout_s
        [state] = await self._answers({worker.name: worker.actor.state.remote()})
        if state["idle_s"] > limit:
            raise RolloutError(
                f"{worker.name} has {len(worker.outstanding)} requests but its engine has not "
                f"stepped for {state['idle_s']:.0f} s (rollout.stall_timeout_s={limit:.0f})"
            )

    def _deliver(self, worker: _Worker, finished: list[tuple[str, Response]]) -> None:
        parcels: dict[asyncio.Queue[Sampled | RolloutError], Sampled] = {}
        for request_id, response in finished:
            request = worker.pop(request_id)
            sink = self._sinks.pop(request_id, None)
            if request is not None and sink is not None:  # else it was abandoned meanwhile
                parcels.setdefault(sink, []).append((request, response))
        for sink, parcel in parcels.items():
            sink.put_nowait(parcel)

    async def _answers(self, references: Mapping[str, Any]) -> list[Any]:
        return await answers(
            references,
            within_s=self._config.rollout.stall_timeout_s,
            key="rollout.stall_timeout_s",
            error=RolloutError,
        )


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
