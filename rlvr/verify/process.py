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
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from rlvr.config import VerifierConfig
from rlvr.task import Outcome, Verdict
from rlvr.verify.worker import (
    OUT_OF_MEMORY,
    RETIRED,
    Frames,
    Limits,
    command,
    encode,
    framed,
)

WINDOW = 8  # tasks that wait in a worker's own socket, so that it never waits for its owner
_START_S = 120.0  # for a nursery to import the verifiers
_ANSWER_S = 30.0  # for a nursery to fork or reap
_GRACE_S = 0.05
_ATTEMPTS = 2  # before a task whose worker dies is given up

# Why a worker ended, beside what it says itself (RETIRED, OUT_OF_MEMORY).
OVERRAN = "overran"
DIED = "died"


class VerifierError(Exception):
    """The verifiers cannot work; the text says what to do."""


class Nursery:
    """The process that forks the workers. Its death is the workers' death."""

    def __init__(self, limits: Limits, verifiers: Sequence[str]) -> None:
        self._limits = limits
        self._verifiers = list(verifiers)
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        """Start it and wait for its imports. Raises VerifierError with their traceback."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            # Equal hashes make equal orders: of sets, and so of what sympy does.
            environment |= {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
            self._process = subprocess.Popen(
                command(theirs.fileno(), self._limits, self._verifiers),
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        ours.setblocking(False)
        self._socket = ours
        reply = await self._receive(_START_S)
        if "failed" in reply:
            raise VerifierError(
                f"cannot load the verifiers {', '.join(self._verifiers)}:\n{reply['failed']}"
            )

    async def fork(self) -> tuple[int, socket.socket]:
        """A new worker: its process id and our end of its task stream."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                reply = await self._ask({}, theirs.fileno())
        except BaseException:
            ours.close()
            raise
        ours.setblocking(False)
        return reply["pid"], ours

    async def kill(self, pid: int) -> int:
        """End a worker, dead or alive, and everything it started; its wait status."""
        return int((await self._ask({"kill": pid}))["status"])

    def close(self) -> None:
        """End the nursery and, by that, every worker."""
        if self._socket is not None:
            self._socket.close()
        if self._process is not None:
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    async def _ask(self, request: dict[str, Any], descriptor: int | None = None) -> dict[str, Any]:
        async with self._turn:
            if self._socket is None:
                raise VerifierError("the verifiers' nursery was not started")
            descriptors = [] if descriptor is None else [descriptor]
            try:
                socket.send_fds(self._socket, [json.dumps(request).encode()], descriptors)
            except OSError as error:
                raise VerifierError(f"the verifiers' nursery is gone: {error}") from error
            return await self._receive(_ANSWER_S)

    async def _receive(self, timeout_s: float) -> dict[str, Any]:
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        try:
            message = await asyncio.wait_for(loop.sock_recv(self._socket, 65536), timeout_s)
        except (TimeoutError, OSError) as error:
            raise VerifierError(
                f"the verifiers' nursery does not answer within {timeout_s:.0f} s: {error!r}"
            ) from error
        if not message:
            raise VerifierError("the verifiers' nursery died; its own words are in the log")
        reply: dict[str, Any] = json.loads(message)
        return reply


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
        self.tasks: deque[Task] = deque()
        self.answered = 0
        self.open = True
        self._timeout_s = timeout_s
        self._owner = owner
        self._frames = Frames()
        self._transport: asyncio.Transport
        self._loop = asyncio.get_running_loop()
        self._since = 0.0  # when the first task of the window began, seen from here
        self._alarm: asyncio.TimerHandle | None = None

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
            self._alarm = self._loop.call_later(self._timeout_s, self._check_time)

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol: verdicts, in the order of the tasks."""
        for answer in self._frames.feed(data):
            if answer[:1] == b'"':
                self._end(json.loads(answer))
                return
            self._owner.settle(self.tasks.popleft(), answer)
            self.answered += 1
            self._since = self._loop.time()
        if len(self.tasks) <= WINDOW // 2:
            self._owner.feed()

    def connection_lost(self, error: Exception | None) -> None:
        """Part of asyncio.Protocol: the process is gone, or ``close`` was called."""
        self._end(DIED)

    def close(self) -> None:
        """Stop listening."""
        self.open = False
        if self._alarm is not None:
            self._alarm.cancel()
        self._transport.abort()

    def _check_time(self, suspected: int = -1) -> None:
        """Kill at the first task's time limit, unless its verdict is on its way."""
        self._alarm = None
        if not self.tasks:
            return
        left = self._since + self._timeout_s - self._loop.time()
        if left <= 0 and suspected == self.answered:
            self._end(OVERRAN)
        elif left <= 0:  # a busy loop may see the clock before it sees the verdict
            self._alarm = self._loop.call_later(_GRACE_S, self._check_time, self.answered)
        else:
            self._alarm = self._loop.call_later(left, self._check_time)

    def _end(self, how: str) -> None:
        if self.open:
            self.close()
            self._owner.worker_ended(self, how)


class Fleet:
    """``config.processes`` workers and the queue in front of them.

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
        limits = Limits(config.timeout_s, config.memory_mib, config.recycle_after)
        self._nursery = Nursery(limits, verifiers)
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
            for _ in range(self._config.processes):
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
        room = {w.pid: WINDOW - len(w.tasks) for w in self._workers}
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

    def worker_ended(self, worker: Worker, how: str) -> None:
        """Pass its tasks on, but for the one at which it ended, and replace it."""
        self._workers.remove(worker)
        self._idle_deaths = 0 if worker.answered or worker.tasks else self._idle_deaths + 1
        lost = None
        if how != RETIRED and worker.tasks:
            task = worker.tasks[0]
            task.deaths += 1
            if how == OVERRAN or task.deaths == _ATTEMPTS:
                lost = worker.tasks.popleft()
        self._queue.extendleft(reversed(worker.tasks))
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
