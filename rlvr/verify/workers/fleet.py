"""The workers of one machine and the queue in front of them.

A task that overruns its time takes its worker with it and nothing else: another is forked from the
warm nursery in milliseconds. A worker that dies by itself costs its task one retry.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rlvr.config import VerifierConfig
from rlvr.task import Outcome, Verdict
from rlvr.verify.base import VerifierError
from rlvr.verify.workers.nursery import DIED, OVERRAN, Nursery, Worker
from rlvr.verify.workers.worker import OUT_OF_MEMORY, RETIRED, encode

_ATTEMPTS = 2  # before a task whose worker dies is given up


class _Task(NamedTuple):
    id: int
    payload: bytes


class Fleet:
    """``size`` workers: ``config.processes`` or, by default, a quarter of this machine's CPUs.

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
        self.nursery = Nursery(config, verifiers)
        self._deliver = deliver
        self._queue: asyncio.Queue[_Task] = asyncio.Queue()
        self._workers: set[Worker] = set()
        self._serving: list[asyncio.Task[None]] = []
        self.failed: VerifierError | None = None
        self.replaced = 0

    async def start(self) -> None:
        """Start the nursery and the workers."""
        try:
            await self.nursery.start()
            workers = [await self._hire() for _ in range(self.size)]
        except BaseException:
            await self.close()
            raise
        self._serving = [asyncio.create_task(self._serve(worker)) for worker in workers]

    def submit(self, task_id: int, payload: bytes) -> None:
        """Queue a pickled ``(Prompt, text)``."""
        self._queue.put_nowait(_Task(task_id, payload))

    async def close(self) -> None:
        """End every process."""
        for serving in self._serving:
            serving.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        ending = [worker.end() for worker in self._workers]
        await asyncio.gather(*ending, return_exceptions=True)
        await asyncio.to_thread(self.nursery.close)

    async def _hire(self) -> Worker:
        worker = await self.nursery.fork()
        self._workers.add(worker)
        return worker

    async def _serve(self, worker: Worker) -> None:
        """Keep one worker at work, and after its end another."""
        task: _Task | None = None
        deaths = idle_deaths = 0  # of this task; of workers without any, one after the other
        try:
            while True:
                how = DIED
                while task := task or await self._next_task(worker):
                    how = await worker.judge(task.payload, self._config.timeout_s)
                    if how in (RETIRED, OUT_OF_MEMORY, OVERRAN, DIED):
                        break
                    self._deliver(task.id, how)
                    task, deaths, idle_deaths = None, 0, -1
                self._workers.remove(worker)
                status = await worker.end()
                idle_deaths = 0 if task else idle_deaths + 1
                if task and how != RETIRED:
                    deaths += 1
                    if how == OVERRAN or deaths == _ATTEMPTS:
                        self._deliver(task.id, encode(self._verdict_on_end(how, status)))
                        task, deaths = None, 0
                # One that dies before its first task would otherwise be forked in a busy loop.
                await asyncio.sleep(min(5.0, 0.1 * idle_deaths))
                worker = await self._hire()
                self.replaced += 1
        except VerifierError as error:
            self.failed = error
        except Exception as error:
            self.failed = VerifierError(f"cannot replace a verifier process: {error!r}")
            raise

    async def _next_task(self, worker: Worker) -> _Task | None:
        """The next task; None if the worker ends meanwhile."""
        if not self._queue.empty():
            return self._queue.get_nowait()
        getting = asyncio.ensure_future(self._queue.get())
        try:
            await asyncio.wait({getting, worker.ended}, return_when=asyncio.FIRST_COMPLETED)
            return getting.result() if getting.done() else None
        finally:
            getting.cancel()

    def _verdict_on_end(self, how: bytes, status: int) -> Verdict:
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
