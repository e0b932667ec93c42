"""The verifier actors as one: spreads responses over them, and outlives each of them."""

from __future__ import annotations

import asyncio
import itertools
import pickle
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.actor import ActorHandle

from rlvr.config import VerifierConfig
from rlvr.errors import VerifierError
from rlvr.task import Outcome, Prompt, Verdict
from rlvr.verify.answer import answer_pattern
from rlvr.verify.base import module_of
from rlvr.verify.process import Fleet
from rlvr.verify.reward import check_rewards, rewarded
from rlvr.verify.worker import decode

QUEUE = 4096  # responses that wait at an actor; more wait at the caller
# A Ray call costs some milliseconds of processor time, as much as verifying fifty short responses.
_PACE_S = 0.03  # from one call to the same actor to the next
_POLL_S = 0.25  # how long a call may wait for verdicts
_START_S = 180.0
_ANSWER_S = 30.0
_RESTARTS = 3  # of an actor, one after the other without a verdict in between


class VerifierActor:
    """The Ray actor that owns a fleet of verifier processes on one machine."""

    def __init__(self, config: VerifierConfig, verifiers: Sequence[str]) -> None:
        self._fleet = Fleet(config, verifiers, self._deliver)
        self._running = 0
        self._finished: list[tuple[int, bytes]] = []
        self._news = asyncio.Event()

    async def start(self) -> None:
        """Start the processes; raises VerifierError if a verifier cannot be loaded."""
        await self._fleet.start()

    async def exchange(self, tasks: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """Take ``(id, pickled (Prompt, text))``, give ``(id, encoded verdict)`` of what is done.

        Returns when nothing is left to wait for, else after a moment with what there is.
        """
        for task_id, payload in tasks:
            self._fleet.submit(task_id, payload)
        self._running += len(tasks)
        self._fleet.feed()
        await self._wait()
        if self._fleet.failed is not None:
            raise self._fleet.failed
        finished, self._finished = self._finished, []
        return finished

    async def state(self) -> dict[str, Any]:
        """The processes, and how many of them had to be replaced."""
        return {"pids": self._fleet.pids, "replaced": self._fleet.replaced}

    async def close(self) -> None:
        """End the processes."""
        await self._fleet.close()

    async def _wait(self) -> None:
        """Until all tasks are done; at most _POLL_S, or _PACE_S if there are verdicts then."""
        limit = _PACE_S
        while self._running:
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), limit)
            except TimeoutError:
                if self._finished or limit > _PACE_S:
                    return
                limit = _POLL_S - _PACE_S

    def _deliver(self, task_id: int, verdict: bytes) -> None:
        self._finished.append((task_id, verdict))
        self._running -= 1
        if not self._running:
            self._news.set()


class _Batch:
    """The responses of one ``verify`` call; ``done`` when each has its verdict."""

    def __init__(self, size: int) -> None:
        self.verdicts: list[Verdict | None] = [None] * size
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._missing = size

    def settle(self, index: int, verdict: Verdict) -> None:
        self.verdicts[index] = verdict
        self._missing -= 1
        if not self._missing and not self.done.done():
            self.done.set_result(None)


@dataclass(slots=True)
class _Task:
    payload: bytes
    batch: _Batch
    index: int


@dataclass
class _Slot:
    """One actor's place, and the responses that it has to answer for."""

    name: str
    actor: ActorHandle
    waiting: dict[int, _Task] = field(default_factory=dict)
    outstanding: dict[int, _Task] = field(default_factory=dict)
    work: asyncio.Event = field(default_factory=asyncio.Event)
    failures: int = 0  # since its last verdict
    last_verdict: float = 0.0

    @property
    def load(self) -> int:
        return len(self.waiting) + len(self.outstanding)


class VerifierPool:
    """Verifies responses on all verifier actors, driven from one asyncio loop.

    Args:
        config: numbers and limits.
        options: Ray options of each actor (resources, placement, environment).
        verifiers: names to import at the start; others are imported at their first response,
            within its time limit.
    """

    def __init__(
        self,
        config: VerifierConfig,
        options: Mapping[str, Any] | None = None,
        *,
        verifiers: Sequence[str] = ("math",),
    ) -> None:
        self._config = config
        self._options = {"num_cpus": 0, "scheduling_strategy": "SPREAD", **(options or {})}
        self._verifiers = list(verifiers)
        self._slots: list[_Slot] = []
        self._serving: list[asyncio.Task[None]] = []
        self._room = asyncio.Event()
        self._ids = itertools.count()
        self._failure: VerifierError | None = VerifierError("the verifier pool is not running")
        self.outcomes: Counter[Outcome] = Counter()
        self.replaced = 0  # actors that died or stood still

    @property
    def actors(self) -> list[ActorHandle]:
        """The actors' handles."""
        return [slot.actor for slot in self._slots]

    async def start(self) -> None:
        """Create the actors. Raises ConfigError or VerifierError if a verifier cannot be used."""
        check_rewards(self._config)
        answer_pattern(self._config)
        for name in self._verifiers:
            module_of(name)
        self._slots = [
            _Slot(f"verifier actor {i}", self._create()) for i in range(self._config.actors or 1)
        ]
        await asyncio.gather(*(self._start(slot) for slot in self._slots))
        self._failure = None
        self._serving = [asyncio.create_task(self._serve(slot)) for slot in self._slots]

    async def verify(self, items: Sequence[tuple[Prompt, str]]) -> list[Verdict]:
        """A verdict for each response text, in order; waits while all queues are full."""
        batch = _Batch(len(items))
        for index, payload in enumerate(_pack(items)):
            slot = await self._slot_with_room()
            slot.waiting[next(self._ids)] = _Task(payload, batch, index)
            slot.work.set()
        if items:
            await batch.done
        verdicts = [verdict for verdict in batch.verdicts if verdict is not None]
        self.outcomes.update(verdict.outcome for verdict in verdicts)
        return verdicts

    async def close(self) -> None:
        """End the actors and their processes."""
        for serving in self._serving:
            serving.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        self._fail(VerifierError("the verifier pool was closed"))
        closing = [_answer(slot.actor.close.remote(), _ANSWER_S) for slot in self._slots]
        await asyncio.gather(*closing, return_exceptions=True)
        for slot in self._slots:
            ray.kill(slot.actor)
        self._slots = []

    async def _slot_with_room(self) -> _Slot:
        while True:
            if self._failure is not None:
                raise self._failure
            slot = min(self._slots, key=lambda s: s.load)
            if slot.load < QUEUE:
                return slot
            self._room.clear()
            await self._room.wait()

    async def _serve(self, slot: _Slot) -> None:
        """Bring responses to the slot's actor and verdicts back, whatever becomes of the actor."""
        try:
            while True:
                if not slot.load:
                    slot.work.clear()
                    await slot.work.wait()
                    slot.last_verdict = time.monotonic()
                next_call = time.monotonic() + _PACE_S
                try:
                    await self._exchange(slot)
                except (ray.exceptions.RayError, VerifierError) as error:
                    await self._replace(slot, error)
                await asyncio.sleep(next_call - time.monotonic())
        except VerifierError as error:
            self._fail(error)
        except Exception as error:
            self._fail(VerifierError(f"{slot.name}: {error!r}"))
            raise

    async def _exchange(self, slot: _Slot) -> None:
        slot.outstanding |= slot.waiting
        tasks = [(task_id, task.payload) for task_id, task in slot.waiting.items()]
        slot.waiting = {}
        finished = await _answer(slot.actor.exchange.remote(tasks), _ANSWER_S)
        for task_id, verdict in finished:
            task = slot.outstanding.pop(task_id)
            task.batch.settle(task.index, rewarded(decode(verdict), self._config))
        now = time.monotonic()
        patience = 2 * self._config.timeout_s + _ANSWER_S
        if finished:
            slot.last_verdict, slot.failures = now, 0
            self._room.set()
        elif now > slot.last_verdict + patience:
            raise VerifierError(f"{slot.name} has given no verdict for {patience:.0f} s")

    async def _replace(self, slot: _Slot, error: Exception) -> None:
        """Put a new actor into the slot; it gets the old one's responses."""
        slot.failures += 1
        if slot.failures > _RESTARTS:
            raise VerifierError(
                f"{slot.name} failed {slot.failures} times without a verdict in between; the "
                f"last time: {error}"
            ) from error
        ray.kill(slot.actor)
        self.replaced += 1
        slot.actor = self._create()
        await self._start(slot)
        slot.waiting = slot.outstanding | slot.waiting
        slot.outstanding = {}
        slot.last_verdict = time.monotonic()

    def _fail(self, error: VerifierError) -> None:
        """Tell everybody who waits, and everybody who comes."""
        self._failure = error
        self._room.set()
        for slot in self._slots:
            for task in (slot.waiting | slot.outstanding).values():
                if not task.batch.done.done():
                    task.batch.done.set_exception(error)

    def _create(self) -> ActorHandle:
        actor_class: Any = ray.remote(VerifierActor)
        actor: ActorHandle = actor_class.options(**self._options).remote(
            self._config, self._verifiers
        )
        return actor

    async def _start(self, slot: _Slot) -> None:
        try:
            await _answer(slot.actor.start.remote(), _START_S)
        except (ray.exceptions.RayError, VerifierError) as error:
            raise VerifierError(f"{slot.name} did not start: {error}") from error


def _pack(items: Sequence[tuple[Prompt, str]]) -> list[bytes]:
    """Pickle each response with what its verifier needs of the prompt: all but the tokens."""
    prompts: dict[int, Prompt] = {}
    for prompt, _ in items:
        if id(prompt) not in prompts:
            prompts[id(prompt)] = replace(prompt, token_ids=())
    return [pickle.dumps((prompts[id(prompt)], text), protocol=5) for prompt, text in items]


async def _answer(reference: Any, timeout_s: float) -> Any:
    """Await a Ray call; its time-out becomes a VerifierError."""
    try:
        return await asyncio.wait_for(_await(reference), timeout_s)
    except TimeoutError:
        raise VerifierError(f"no answer within {timeout_s:.0f} s") from None


async def _await(reference: Any) -> Any:
    return await reference
