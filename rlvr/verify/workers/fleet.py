"""The verifier processes of one machine and the queue in front of them: a Ray actor of the pool.

A task that overruns its time takes its worker with it and nothing else: another is forked from the
warm nursery in milliseconds. A worker that dies by itself costs its task one retry.
"""

import asyncio
import os
from collections.abc import Callable, Sequence

from rlvr.errors import VerifierError
from rlvr.verify.workers.work import Work
from rlvr.verify.workers.worker import DIED, ENDINGS, OVERRAN, RETIRED, Nursery, Worker, end_verdict

# A Ray call costs some milliseconds of processor time, as much as verifying fifty short responses.
PACE_S = 0.03  # from one call to the same fleet to the next
_POLL_S = 0.25  # how long a call may wait for verdicts
_ATTEMPTS = 2  # before a task whose worker dies is given up

Task = tuple[int, bytes, float]  # id; what is asked, pickled; the seconds that it may take
Answer = tuple[int, bytes]  # id of the task; encoded


class Fleet:
    """``size`` workers: ``config.processes`` or, by default, a quarter of this machine's CPUs."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._config = config = work.verifier
        self.size = config.processes or max(1, len(os.sched_getaffinity(0)) // 4)
        self.nursery: Nursery | None = None
        self.replaced = 0
        self._queue: asyncio.Queue[Task] = asyncio.Queue()
        self._workers: set[Worker] = set()
        self._serving: list[asyncio.Task[None]] = []
        self._running = 0
        self._finished: list[Answer] = []
        self._news = asyncio.Event()
        self._failed: VerifierError | None = None

    async def start(self) -> None:
        """Start the processes; raises VerifierError if a verifier cannot be loaded."""
        self.nursery = Nursery(self._work)
        try:
            await self.nursery.ready()
            for _ in range(self.size):
                self._workers.add(await self.nursery.hire())
        except BaseException:
            await self.close()
            raise
        self._serving = [asyncio.create_task(self._serve(worker)) for worker in self._workers]

    async def exchange(self, tasks: Sequence[Task]) -> list[Answer]:
        """Take tasks, give answers, in the order of their completion.

        Returns when nothing is left to wait for, else after a moment with what there is. Raises
        VerifierError when the nursery is lost.
        """
        for task in tasks:
            self._queue.put_nowait(task)
        self._running += len(tasks)
        await self._wait(PACE_S, lambda: not self._running)
        await self._wait(_POLL_S - PACE_S, lambda: self._finished or not self._running)
        if self._failed is not None:
            raise self._failed
        finished, self._finished = self._finished, []
        return finished

    async def close(self) -> None:
        for serving in self._serving:
            serving.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        ending = [worker.end() for worker in self._workers]
        await asyncio.gather(*ending, return_exceptions=True)
        if self.nursery is not None:
            await asyncio.to_thread(self.nursery.close)

    async def _wait(self, limit_s: float, enough: Callable[[], object]) -> None:
        try:
            async with asyncio.timeout(limit_s):
                while not enough() and self._failed is None:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            pass

    def _deliver(self, task: Task, answer: bytes) -> None:
        self._finished.append((task[0], answer))
        self._running -= 1
        self._news.set()

    async def _serve(self, worker: Worker) -> None:
        """Keep one worker at work, and after its end another."""
        assert self.nursery is not None
        task: Task | None = None
        deaths = idle_deaths = 0  # of this task; of workers without any, one after the other
        try:
            while True:
                how = DIED
                while task := task or await self._next_task(worker):
                    how = await worker.answer(task[1], limit_s=task[2])
                    if how in ENDINGS:
                        break
                    self._deliver(task, how)
                    task, deaths, idle_deaths = None, 0, -1
                self._workers.remove(worker)
                status = await worker.end()
                idle_deaths = 0 if task else idle_deaths + 1
                if task and how != RETIRED:
                    deaths += 1
                    if how == OVERRAN or deaths == _ATTEMPTS:
                        self._deliver(task, end_verdict(how, status, self._config))
                        task, deaths = None, 0
                # One that dies before its first task would otherwise be forked in a busy loop.
                await asyncio.sleep(min(5.0, 0.1 * idle_deaths))
                worker = await self.nursery.hire()
                self._workers.add(worker)
                self.replaced += 1
        except Exception as error:
            lost = VerifierError(f"cannot replace a verifier process: {error!r}")
            self._failed = error if isinstance(error, VerifierError) else lost
            self._news.set()

    async def _next_task(self, worker: Worker) -> Task | None:
        """The next task; None if the worker ends meanwhile."""
        if not self._queue.empty():
            return self._queue.get_nowait()
        getting = asyncio.ensure_future(self._queue.get())
        try:
            await asyncio.wait({getting, worker.ended}, return_when=asyncio.FIRST_COMPLETED)
            return getting.result() if getting.done() else None
        finally:
            getting.cancel()
