"""The rollout workers as one: routes requests, gathers responses, outlives each of the workers."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayTaskError

from rlvr.config import RunConfig
from rlvr.errors import EngineError, RolloutError, RunError
from rlvr.place import Place
from rlvr.remote import answer, summary
from rlvr.rollout.request import Request
from rlvr.rollout.routing import Asking, Load, Routing, Sampled, Sink
from rlvr.rollout.worker import EngineFailed, RolloutWorker

_ROOM_S = 1.0  # between questions whether a machine has come
_POLL_S = 5.0  # how long a worker may hold an unanswered ``collect``, at most

Introduce = Callable[[str, ActorHandle, Callable[[], Awaitable[None]]], Awaitable[None]]


@dataclass(eq=False)
class _Worker:
    number: int
    actor: ActorHandle
    serves: bool = False
    load: Load = field(default_factory=Load)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def name(self) -> str:
        return f"rollout worker {self.number}"

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def stop(self) -> list[asyncio.Task[None]]:
        """End the process and what waits for it, but for the task that calls this."""
        ray.kill(self.actor)
        ended = [task for task in self.tasks if task is not asyncio.current_task()]
        for task in ended:
            task.cancel()
        return ended


class RolloutPool:
    """Drives the rollout workers from one asyncio loop.

    A worker that dies, stands still or whose engine fails is replaced, and what it has not
    answered is asked of those that serve, with the same seeds, or waits for one.

    Args:
        config: the run's, resolved.
        options: Ray options (resources, placement, environment) of each worker.
        introduce: awaited with a replacement's name, its actor and what starts it; the engine
            serves the others' version when this returns. None: the first failure is the last.
    """

    def __init__(
        self,
        config: RunConfig,
        options: Sequence[dict[str, Any]],
        introduce: Introduce | None = None,
    ) -> None:
        self._config = config
        self._options = options
        self._introduce = introduce
        self._gpus: Sequence[Sequence[str]] = ()
        self._workers: list[_Worker] = []
        self._routing = Routing()
        self._failures: list[RunError] = []
        self._end: RunError | None = None  # why no worker is replaced any more
        self._dealing: asyncio.Handle | None = None  # that is about to happen

    @property
    def actors(self) -> list[ActorHandle]:
        return [w.actor for w in self._workers]

    @property
    def engines(self) -> dict[str, ActorHandle]:
        """The workers that serve, by name."""
        return {w.name: w.actor for w in self._workers if w.serves}

    @property
    def replaced(self) -> int:
        """Workers that failed, since the start or ``forgive``."""
        return len(self._failures)

    def forgive(self) -> None:
        """Count failures anew: another run begins."""
        self._failures = []

    def revive(self) -> None:
        """Replace workers again, those too that could not be while the learners were gone."""
        self._end = None
        for worker in self._workers:
            if not worker.serves and not worker.tasks and self._introduce is not None:
                worker.stop()
                self._put(worker.number, self._introduce)

    async def start(self, gpus: Sequence[Sequence[str]] = ()) -> None:
        """Start all engines at once, each on the GPUs that Ray gives it, or on its own ``gpus``."""
        self._gpus = gpus
        self._workers = [self._create(number) for number in range(len(self._options))]
        await asyncio.gather(*map(self._start, self._workers))
        for worker in self._workers:
            self._serve(worker)

    async def sample(self, requests: Sequence[Request]) -> AsyncIterator[Sampled]:
        """Yield responses as they finish, several at a time, until each request has its own."""
        with self.asking() as asking:
            asking.put(requests)
            while asking.open:
                yield await asking.answers()

    @contextmanager
    def asking(self) -> Iterator[Asking]:
        """For a caller who asks more as answers come; what is open at the end is given up."""
        asking = Asking(self._ask_all)
        try:
            yield asking
        finally:
            self._abandon(list(asking.open.values()))

    async def sleep(self) -> None:
        """All engines give their memory away; they serve again when both have happened:
        ``wake_up`` and the next publish."""
        await self._control("sleep")

    async def wake_up(self, tag: str) -> None:
        """All engines take memory back: for the ``weights`` or for the ``kv_cache``."""
        await self._control("wake_up", tag)

    def replace(self, actor: ActorHandle, error: RunError) -> None:
        """Put another worker in the place of a failed one; nothing, if that has happened."""
        worker = next((w for w in self._workers if w.actor is actor), None)
        if worker is None or self._end is not None:
            return
        worker.serves = False
        limit = self._config.rollout.max_replacements
        if self._introduce is None or limit == 0:
            return self._give_up(error)
        told = "Its machine is gone"  # which is no failure of its own
        if self._has_room(worker):
            self._failures.append(error)
            told = f"It is replaced ({len(self._failures)} of rollout.max_replacements={limit})"
        if len(self._failures) > limit:
            return self._give_up(
                RolloutError(
                    f"{summary(error)}. It is not replaced: rollout.max_replacements={limit} have "
                    f"been. The first of these: {self._failures[0]}"
                )
            )
        unanswered = self._routing.take_back(worker.load)
        print(f"{summary(error)}. {told}, {unanswered} requests are asked again", flush=True)
        worker.stop()
        self._put(worker.number, self._introduce)
        self._deal()

    async def close(self) -> None:
        ended = [task for worker in self._workers for task in worker.stop()]
        await asyncio.gather(*ended, return_exceptions=True)
        self._workers = []

    def _put(self, number: int, introduce: Introduce) -> None:
        """A new worker, which will serve when it has been introduced."""
        worker = self._workers[number] = self._create(number)
        worker.spawn(self._succeed(worker, introduce))

    def _create(self, number: int) -> _Worker:
        actor_class: Any = ray.remote(RolloutWorker)
        return _Worker(number, actor_class.options(**self._options[number]).remote(self._config))

    async def _start(self, worker: _Worker) -> None:
        await answer(
            worker.actor.start.remote(self._gpus[worker.number] if self._gpus else ()),
            worker.name,
            within_s=self._config.rollout.start_timeout_s,
            key="rollout.start_timeout_s",
            error=RolloutError,
        )

    async def _succeed(self, worker: _Worker, introduce: Introduce) -> None:
        try:
            await self._find_room(worker)
            await introduce(worker.name, worker.actor, lambda: self._start(worker))
        except (RolloutError, EngineError) as error:
            self.replace(worker.actor, error)
        except RunError as error:
            self._give_up(error)
        else:
            self._serve(worker)
            print(f"{worker.name} serves{self._count}", flush=True)

    async def _find_room(self, worker: _Worker) -> None:
        """Wait for a machine that has room for it, as long as ``rollout.min_workers`` have one.

        Raises RunError when fewer have had one for ``cluster.rejoin_s``.
        """
        least, patience = self._config.rollout.min_workers, self._config.cluster.rejoin_s
        enough, waits = time.monotonic(), ""
        while not self._has_room(worker):
            if not waits:
                waits = f"no machine has room for {worker.name}{self._count}"
                print(f"{waits}. It will serve when one has", flush=True)
            now = time.monotonic()
            serving = len(self.engines)
            if serving >= least or sum(map(self._has_room, self._workers)) >= least:
                enough = now
            elif now - enough > patience:
                raise RunError(
                    f"{waits}, and nothing has come for cluster.rejoin_s={patience:g}; the run "
                    f"needs rollout.min_workers={least}. Start Ray on the machine that is gone, or "
                    "on another, and go on with train.resume=auto."
                )
            await asyncio.sleep(_ROOM_S)

    def _has_room(self, worker: _Worker) -> bool:
        place = self._options[worker.number].get("scheduling_strategy")
        return not isinstance(place, Place) or place.there()

    @property
    def _count(self) -> str:
        return f" ({len(self.engines)} of {len(self._workers)} serve)"

    def _serve(self, worker: _Worker) -> None:
        worker.serves = True
        worker.spawn(self._collect(worker))
        self._deal()

    def _ask_all(self, requests: Sequence[Request], sink: Sink) -> None:
        """Put to the workers, together with all that is asked before the loop goes on."""
        if self._end is not None:
            raise self._end
        self._routing.add(requests, sink)
        if self._dealing is None:
            self._dealing = asyncio.get_running_loop().call_soon(self._deal)

    def _give_up(self, error: RunError) -> None:
        self._end = error
        self._routing.fail(error)

    def _deal(self) -> None:
        """Ask those that serve what waits."""
        self._dealing = None
        serving = [w for w in self._workers if w.serves]
        batches = self._routing.deal([w.load for w in serving])
        for worker, batch in zip(serving, batches, strict=True):
            if batch:
                submitted: Any = worker.actor.submit.remote(batch)
                worker.spawn(self._submitted(worker, batch, submitted))

    async def _submitted(self, worker: _Worker, batch: list[Request], reference: Any) -> None:
        try:
            await self._ask(worker, reference)
        except RolloutError as refused:
            self._routing.fail(refused, batch)

    def _abandon(self, requests: Sequence[Request]) -> None:
        if not requests:
            return
        known = self._routing.forget(requests, [w.load for w in self._workers])
        for worker, ids in zip(self._workers, known, strict=True):
            if ids:
                worker.actor.control.remote("abort", ids)

    async def _collect(self, worker: _Worker) -> None:
        """Bring a worker's responses to whoever asked for them."""
        poll_s = min(_POLL_S, self._config.rollout.stall_timeout_s / 4)
        while True:
            finished = await self._ask(worker, worker.actor.collect.remote(poll_s))
            if finished is None:
                return
            if not finished and worker.load.requests:
                await self._check_progress(worker)
            self._routing.deliver(worker.load, finished)

    async def _check_progress(self, worker: _Worker) -> None:
        limit = self._config.rollout.stall_timeout_s
        state = await self._ask(worker, worker.actor.state.remote())
        if state is not None and state["idle_s"] > limit:
            stalled = (
                f"{worker.name} has {len(worker.load.requests)} requests but its engine has not "
                f"stepped for {state['idle_s']:.0f} s (rollout.stall_timeout_s={limit:.0f})"
            )
            self.replace(worker.actor, RolloutError(stalled))

    async def _control(self, name: str, *arguments: Any) -> None:
        serving = [w for w in self._workers if w.serves]
        calls: list[Any] = [w.actor.control.remote(name, *arguments) for w in serving]
        await asyncio.gather(*map(self._ask, serving, calls))

    async def _ask(self, worker: _Worker, reference: Any) -> Any:
        """The answer of a worker; None of one that failed, which is replaced.

        Raises RolloutError if the engine refuses the call and works on.
        """
        try:
            return await answer(
                reference,
                worker.name,
                within_s=self._config.rollout.stall_timeout_s,
                key="rollout.stall_timeout_s",
                error=RolloutError,
            )
        except RolloutError as error:
            cause = error.__cause__
            if isinstance(cause, RayTaskError) and not isinstance(cause.cause, EngineFailed):
                raise
            self.replace(worker.actor, error)
            return None
