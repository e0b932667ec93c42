"""The verifier actors as one: spreads responses over them, and outlives each of them."""

import asyncio
import itertools
import pickle
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rlvr.errors import VerifierError
from rlvr.remote import answer, summary
from rlvr.task import Prompt, Reply, Verdict
from rlvr.verify.workers.fleet import PACE_S, Fleet, Task
from rlvr.verify.workers.work import Work
from rlvr.verify.workers.worker import decode, decode_reply

_answer = partial(answer, error=VerifierError)

QUEUE = 4096  # responses that wait at an actor; more wait at the caller
_START_S = 180.0
_ANSWER_S = 30.0
_RESTARTS = 3  # of an actor, one after the other without a verdict in between


@dataclass
class _Slot:
    """One actor's place, and the responses that it has to answer for."""

    name: str
    machine: str  # its Ray id
    actor: ActorHandle
    moves: bool = False  # to another machine, before its next task
    tasks: dict[int, tuple[Task, asyncio.Future[bytes]]] = field(default_factory=dict)
    unsent: list[int] = field(default_factory=list)  # of the tasks
    work: asyncio.Event = field(default_factory=asyncio.Event)
    failures: int = 0  # since its last verdict
    last_verdict: float = 0.0


class VerifierPool:
    """Verifies responses on all verifier actors, driven from one asyncio loop.

    Args:
        work: verifiers and environments, numbers and limits.
        options: Ray options of each actor (resources, placement, environment).
    """

    def __init__(self, work: Work, options: Mapping[str, Any] | None = None) -> None:
        self.work = work
        self._options = {"num_cpus": 0, **(options or {})}
        self._actors = work.verifier.actors or 1
        self._slots: list[_Slot] = []
        self._serving: list[asyncio.Task[None]] = []
        self._room = asyncio.Semaphore(QUEUE * self._actors)
        self._ids = itertools.count()
        self._failure: VerifierError | None = VerifierError("the verifier pool is not running")
        self.replaced = 0  # actors that died or stood still

    @property
    def actors(self) -> list[ActorHandle]:
        return [slot.actor for slot in self._slots]

    async def start(self) -> None:
        """Create the actors. Raises ConfigError or VerifierError if a verifier cannot be used."""
        self.work.check()
        self._slots = []
        for i in range(self._actors):
            self._slots.append(_Slot(f"verifier actor {i}", *self._create()))
        await asyncio.gather(*map(self._start, self._slots))
        self._failure = None
        self._serving = [asyncio.create_task(self._serve(slot)) for slot in self._slots]

    async def verify(self, items: Sequence[tuple[Prompt, str]]) -> list[Verdict]:
        """Each verifier's own verdict on each response text, in order.

        Waits while all queues are full. Raises VerifierError when the actors are lost for good.
        """
        return list(map(decode, await self._answers(items, self.work.verifier.timeout_s)))

    async def reply(self, turns: Sequence[tuple[Prompt, str, Any]]) -> list[Reply]:
        """What each prompt's environment says to a turn's text, in its state (None: the first).

        Waits and raises as ``verify`` does. What an environment does wrong is in ``Reply.failure``.
        """
        environment = self.work.environment
        answers = await self._answers(turns, environment.timeout_s)
        return [decode_reply(answer, environment) for answer in answers]

    async def _answers(self, asked: Sequence[tuple[Any, ...]], limit_s: float) -> list[bytes]:
        prompts = {id(prompt): replace(prompt, token_ids=()) for prompt, *_ in asked}
        answers = []
        for prompt, *rest in asked:
            payload = pickle.dumps((prompts[id(prompt)], *rest), protocol=5)
            await self._room.acquire()
            answer = asyncio.get_running_loop().create_future()
            answer.add_done_callback(lambda _: self._room.release())
            if self._failure is not None:
                answer.cancel()
                raise self._failure
            slot = min(self._slots, key=lambda s: len(s.tasks))
            task_id = next(self._ids)
            slot.tasks[task_id] = (task_id, payload, limit_s), answer
            slot.unsent.append(task_id)
            slot.work.set()
            answers.append(answer)
        return await asyncio.gather(*answers)

    def spread(self) -> None:
        """Have an actor move to a machine that has come, from one that has more than it."""
        here = self._here()
        crowded = max(self._slots, key=lambda slot: here[slot.machine])
        if here[crowded.machine] > min(here.values()) + 1:
            crowded.moves = True
            crowded.work.set()

    async def close(self) -> None:
        """End the actors and their processes."""
        for serving in self._serving:
            serving.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        self._fail(VerifierError("the verifier pool was closed"))
        closing = [_answer(s.actor.close.remote(), s.name, within_s=_ANSWER_S) for s in self._slots]
        await asyncio.gather(*closing, return_exceptions=True)
        for actor in self.actors:
            ray.kill(actor)
        self._slots = []

    async def _serve(self, slot: _Slot) -> None:
        """Bring responses to the slot's actor and verdicts back, whatever becomes of the actor."""
        try:
            while True:
                if not slot.tasks:
                    slot.work.clear()
                    await slot.work.wait()
                    slot.last_verdict = time.monotonic()
                next_call = time.monotonic() + PACE_S
                try:
                    if slot.moves:
                        await self._renew(slot)
                    await self._exchange(slot)
                except VerifierError as error:
                    await self._replace(slot, error)
                await asyncio.sleep(next_call - time.monotonic())
        except VerifierError as error:
            self._fail(error)
        except Exception as error:
            self._fail(VerifierError(f"{slot.name}: {error!r}"))
            raise

    async def _exchange(self, slot: _Slot) -> None:
        tasks = [slot.tasks[task_id][0] for task_id in slot.unsent]
        slot.unsent = []
        finished = await _answer(slot.actor.exchange.remote(tasks), slot.name, within_s=_ANSWER_S)
        for task_id, given in finished:
            _, answer = slot.tasks.pop(task_id)
            if not answer.done():  # it may have been cancelled
                answer.set_result(given)
        now = time.monotonic()
        limits = (limit_s for (_, _, limit_s), _ in slot.tasks.values())
        patience = 2 * max(limits, default=0.0) + _ANSWER_S
        if finished:
            slot.last_verdict, slot.failures = now, 0
        elif now > slot.last_verdict + patience:
            raise VerifierError(f"{slot.name} has given no verdict for {patience:.0f} s")

    async def _replace(self, slot: _Slot, error: VerifierError) -> None:
        """Put a new actor into the slot, and another if that fails as it starts."""
        while True:
            slot.failures += 1
            if slot.failures > _RESTARTS:
                raise VerifierError(
                    f"{slot.name} failed {slot.failures} times without a verdict in between; the "
                    f"last time: {error}"
                ) from error
            print(f"{summary(error)}. It is replaced.", flush=True)
            self.replaced += 1
            try:
                return await self._renew(slot)
            except VerifierError as again:
                error = again

    async def _renew(self, slot: _Slot) -> None:
        """Another actor in the slot, where the fewest are; it gets the old one's responses."""
        ray.kill(slot.actor)
        slot.machine, slot.moves = "", False
        slot.machine, slot.actor = self._create()
        await self._start(slot)
        slot.unsent = list(slot.tasks)

    def _fail(self, error: VerifierError) -> None:
        """Tell everybody who waits, and everybody who comes."""
        self._failure = error
        for slot in self._slots:
            for _, waiting in slot.tasks.values():
                if not waiting.done():
                    waiting.set_exception(error)
                    waiting.exception()  # who asked may be gone already

    def _create(self) -> tuple[str, ActorHandle]:
        """An actor where the fewest are. Ray's own spreading does not keep to that, and a soft
        affinity to one without resources is not kept either."""
        here = self._here()
        machine = min(here, key=lambda node: here[node])
        there = NodeAffinitySchedulingStrategy(machine, soft=False)
        options = {"scheduling_strategy": there, **self._options}
        actor_class: Any = ray.remote(Fleet)
        return machine, actor_class.options(**options).remote(self.work)

    def _here(self) -> Counter[str]:
        """How many actors each living machine has; one of another machine counts nowhere."""
        living = sorted(node["NodeID"] for node in ray.nodes() if node["Alive"])
        machines = [slot.machine for slot in self._slots]
        return Counter({node: machines.count(node) for node in living})

    async def _start(self, slot: _Slot) -> None:
        await _answer(slot.actor.start.remote(), slot.name, within_s=_START_S)
        slot.last_verdict = time.monotonic()
