"""The killable processes that verify, seen from the event loop of their owner.

``Fleet`` keeps a fixed number of workers at work. A task that overruns its time takes its worker
with it and nothing else: the tasks that waited behind it go to the next worker, which is forked
from the warm nursery in milliseconds. A worker that dies by itself costs its task one retry.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from rlvr.config import VerifierConfig
from rlvr.errors import VerifierError
from rlvr.task import Outcome, Verdict
from rlvr.verify.nursery import Nursery
from rlvr.verify.worker import OUT_OF_MEMORY, RETIRED, Frames, encode, framed

WINDOW = 8  # tasks in a worker's own socket, so that it does not wait for its owner after each
_QUICK_S = 0.01  # a task that takes less widens the window
_SLOW_S = 0.1  # a task that takes longer narrows it, and the tasks behind it go elsewhere
_GRACE_S = 0.05
_ATTEMPTS = 2  # before a task whose worker dies is given up

# Why a worker ended, beside what it says itself (RETIRED, OUT_OF_MEMORY).
OVERRAN = "overran"
DIED = "died"


@dataclass(slots=True)
class Task:
    """One response to verify, and how often a worker has died of it."""

    id: int
    payload: bytes
    deaths: int = 0


class Worker(asyncio.Protocol):
    """One worker process: the tasks in its window, and the clock of the first of them."""

    def __init__(self, pid: int, timeout_s: float, owner: Fleet) -> None:
        self.pid = pid
        self.tasks: deque[Task | None] = deque()  # None: given to another worker meanwhile
        self.answered = 0
        self.slow = False  # the first task takes long: better not wait behind it
        self._window = 1
        self._open = True
        self._timeout_s = timeout_s
        self._owner = owner
        self._frames = Frames()
        self._transport: asyncio.Transport
        self._loop = asyncio.get_running_loop()
        self._since = 0.0  # when the first task began, seen from here
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def room(self) -> int:
        """How many more tasks it should get."""
        return 0 if self.slow else self._window - len(self.tasks)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def give(self, tasks: Sequence[Task]) -> None:
        """Put tasks into the window."""
        if not self.tasks:
            self._since = self._loop.time()
        self.tasks.extend(tasks)
        self._transport.write(b"".join(framed(task.payload) for task in tasks))
        if self._alarm is None:
            self._alarm = self._loop.call_later(_SLOW_S, self._check_time)

    def give_up(self) -> list[Task]:
        """The tasks behind the first, for others to do; its answers to them will be ignored."""
        given_up = [task for task in list(self.tasks)[1:] if task is not None]
        self.tasks = deque([self.tasks[0], *[None] * (len(self.tasks) - 1)])
        return given_up

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol: verdicts, in the order of the tasks."""
        for answer in self._frames.feed(data):
            if answer[:1] == b'"':
                self._end(json.loads(answer))
                return
            if (task := self.tasks.popleft()) is not None:
                self._owner.settle(task, answer)
            self.answered += 1
            self._note_time()
        if len(self.tasks) <= self._window // 2:
            self._owner.feed()

    def connection_lost(self, error: Exception | None) -> None:
        """Part of asyncio.Protocol: the process is gone, or ``close`` was called."""
        self._end(DIED)

    def close(self) -> None:
        """Stop listening."""
        self._open = False
        if self._alarm is not None:
            self._alarm.cancel()
        self._transport.abort()

    def _note_time(self) -> None:
        """A task is done, the next one begins."""
        now = self._loop.time()
        if now - self._since < _QUICK_S:
            self._window = min(WINDOW, 2 * self._window)
        elif self.slow:
            self._window = 1
            self.slow = False
            self._reset_alarm(_SLOW_S)
        self._since = now

    def _check_time(self, suspected: int = -1) -> None:
        """Kill at the first task's time limit, unless its verdict is on its way."""
        self._alarm = None
        if not self.tasks:
            return
        running = self._loop.time() - self._since
        if running >= self._timeout_s:
            if suspected == self.answered:
                self._end(OVERRAN)
            else:  # a busy loop may see the clock before it sees the verdict
                self._alarm = self._loop.call_later(_GRACE_S, self._check_time, self.answered)
        elif running < _SLOW_S:
            self._reset_alarm(_SLOW_S - running)
        else:
            self._reset_alarm(self._timeout_s - running)
            if not self.slow:
                self.slow = True
                self._owner.relieve(self)

    def _reset_alarm(self, delay_s: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.call_later(delay_s, self._check_time)

    def _end(self, how: str) -> None:
        if self._open:
            self.close()
            self._owner.worker_ended(self, how)


class Fleet:
    """``size`` workers and the queue in front of them.

    The size is ``config.processes`` or, by default, a quarter of this machine's CPUs.

    ``deliver`` is called with a task's id and its encoded verdict, in the order of completion.
    ``failed`` is set when the nursery is lost and nothing can be verified any more.
    """

    def __init__(
        self,
        config: VerifierConfig,
        verifiers: Sequence[str],
        deliver: Callable[[int, bytes], None],
    ) -> None:
        self._config = config
        self.size = config.processes or max(1, len(os.sched_getaffinity(0)) // 4)
        self._nursery = Nursery(config, verifiers)
        self._deliver = deliver
        self._workers: list[Worker] = []
        self._queue: deque[Task] = deque()
        self._replacing: set[asyncio.Task[None]] = set()
        self._idle_deaths = 0  # one after the other
        self.failed: VerifierError | None = None
        self.replaced = 0

    @property
    def pids(self) -> list[int]:
        """The workers' process ids."""
        return [w.pid for w in self._workers]

    async def start(self) -> None:
        """Start the nursery and the workers."""
        try:
            await self._nursery.start()
            for _ in range(self.size):
                await self._add_worker()
        except BaseException:
            await self.close()
            raise

    def submit(self, task_id: int, payload: bytes) -> None:
        """Queue a pickled ``(Prompt, text)``; ``feed`` sets the workers on it."""
        self._queue.append(Task(task_id, payload))

    def feed(self) -> None:
        """Fill the workers' windows from the queue, the emptiest first."""
        if not self._queue:
            return
        given: dict[int, list[Task]] = {}
        room = {w.pid: max(0, w.room) for w in self._workers}
        for _ in range(min(len(self._queue), sum(room.values()))):
            pid = max(room, key=room.__getitem__)
            room[pid] -= 1
            given.setdefault(pid, []).append(self._queue.popleft())
        for worker in self._workers:
            if worker.pid in given:
                worker.give(given[worker.pid])

    def settle(self, task: Task, verdict: bytes) -> None:
        """Deliver a verdict."""
        self._deliver(task.id, verdict)

    def relieve(self, worker: Worker) -> None:
        """A worker is busy with one task for long: others take what waits behind it."""
        if len(self._workers) > 1:
            self._queue.extendleft(reversed(worker.give_up()))
            self.feed()

    def worker_ended(self, worker: Worker, how: str) -> None:
        """Pass its tasks on, but for the one at which it ended, and replace it."""
        self._workers.remove(worker)
        self._idle_deaths = 0 if worker.answered or worker.tasks else self._idle_deaths + 1
        lost = None
        if how != RETIRED and worker.tasks and (task := worker.tasks[0]) is not None:
            task.deaths += 1
            if how == OVERRAN or task.deaths == _ATTEMPTS:
                lost = worker.tasks.popleft()
        self._queue.extendleft(task for task in reversed(worker.tasks) if task is not None)
        replacing = asyncio.get_running_loop().create_task(self._replace(worker.pid, how, lost))
        self._replacing.add(replacing)
        replacing.add_done_callback(self._replacing.discard)
        self.feed()

    async def close(self) -> None:
        """End every process."""
        for replacing in self._replacing:
            replacing.cancel()
        for worker in self._workers:
            worker.close()
        self._workers = []
        await asyncio.to_thread(self._nursery.close)

    async def _add_worker(self) -> None:
        pid, stream = await self._nursery.fork()
        worker = Worker(pid, self._config.timeout_s, self)
        await asyncio.get_running_loop().create_unix_connection(lambda: worker, sock=stream)
        self._workers.append(worker)
        self.feed()

    async def _replace(self, pid: int, how: str, lost: Task | None) -> None:
        try:
            status = await self._nursery.kill(pid)
            if lost is not None:
                self.settle(lost, encode(self._verdict_on_end(how, status)))
            # One that dies before its first task would otherwise be forked in a busy loop.
            await asyncio.sleep(min(5.0, 0.1 * self._idle_deaths))
            await self._add_worker()
            self.replaced += 1
        except VerifierError as error:
            self.failed = error
        except Exception as error:
            self.failed = VerifierError(f"cannot replace a verifier process: {error!r}")
            raise

    def _verdict_on_end(self, how: str, status: int) -> Verdict:
        """The verdict on the task at which a worker ended."""
        config = self._config
        if how == OVERRAN:
            detail = f"no verdict within verifier.timeout_s={config.timeout_s:g}"
            return Verdict(0.0, Outcome.TIMEOUT, detail, config.timeout_s)
        if how == OUT_OF_MEMORY:
            detail = f"out of memory, twice (verifier.memory_mib={config.memory_mib})"
        else:
            detail = f"the verifier's process died of it, twice ({_cause(status)})"
        return Verdict(0.0, Outcome.ERROR, detail)


def _cause(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"exit status {os.waitstatus_to_exitcode(status)}"
