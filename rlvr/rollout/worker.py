"""The Ray actor that owns a vLLM engine."""

import asyncio
import os
import queue
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from rlvr.config import RunConfig
from rlvr.rollout.engine import Engine
from rlvr.rollout.request import Request
from rlvr.types import Response

Finished = list[tuple[str, Response]]


class EngineFailed(RuntimeError):
    """The engine has failed for good; the text has its own traceback."""


class RolloutWorker:
    """Steps the engine on one thread and answers calls on another.

    Requests and control calls reach the engine between two steps. An error of the engine is
    kept and raised from every later call, with the engine's own traceback.
    """

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._inbox: queue.Queue[Callable[[Engine], None]] = queue.Queue()
        self._finished: Finished = []
        self._failure: str | None = None
        self._calling: set[asyncio.Future[None]] = set()
        self._steps = 0
        self._last_step = time.monotonic()
        self._loop: asyncio.AbstractEventLoop
        self._news: asyncio.Event

    # -- calls ----------------------------------------------------------------------------------

    async def start(self, gpus: Sequence[str]) -> None:
        """Start the engine, on ``gpus`` of this node or, if there are none, on what Ray gave."""
        if gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        ready: Future[None] = Future()
        threading.Thread(target=self._serve, args=(ready,), daemon=True).start()
        await asyncio.wrap_future(ready)

    async def submit(self, requests: list[Request]) -> None:
        """Queue requests; their responses come out of ``collect``."""

        def add(engine: Engine) -> None:
            for request in requests:
                engine.add(request)

        await self._between_steps(add)

    async def collect(self, wait_s: float) -> Finished:
        """What has finished since the last call; waits up to ``wait_s`` for the first."""
        if not self._finished and self._failure is None:
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), wait_s)
            except TimeoutError:
                pass
        self._raise_failure()
        finished, self._finished = self._finished, []
        return finished

    async def control(self, name: str, *arguments: Any) -> None:
        """Call a method of ``Engine`` between two steps; raises the engine's own error."""
        await self._between_steps(lambda engine: getattr(engine, name)(*arguments))

    async def state(self) -> dict[str, float]:
        """For the stall detector and for error messages: steps taken, seconds since the last."""
        return {"steps": self._steps, "idle_s": time.monotonic() - self._last_step}

    # -- the engine's thread --------------------------------------------------------------------

    def _serve(self, ready: Future[None]) -> None:
        try:
            engine = Engine(self._config)
        except BaseException as error:
            ready.set_exception(error)
            return
        ready.set_result(None)
        try:
            while True:
                self._run_calls(engine)
                finished = engine.step()
                self._steps += 1
                self._last_step = time.monotonic()
                if finished:
                    self._loop.call_soon_threadsafe(self._deliver, finished)
        except BaseException:
            self._loop.call_soon_threadsafe(self._fail, traceback.format_exc())

    def _run_calls(self, engine: Engine) -> None:
        """Run what waits in the inbox; sleep in it while the engine has nothing to do."""
        while True:
            idle = not engine.busy
            try:
                call = self._inbox.get(block=idle)
            except queue.Empty:
                return
            if idle:
                self._last_step = time.monotonic()  # what was idle before is no stall
            call(engine)

    def _deliver(self, finished: Finished) -> None:
        self._finished += finished
        self._news.set()

    def _fail(self, failure: str) -> None:
        self._failure = failure
        self._news.set()
        for call in set(self._calling):
            if not call.done():
                call.set_exception(EngineFailed(self._words()))

    async def _between_steps(self, call: Callable[[Engine], None]) -> None:
        """Run ``call`` on the engine's thread; its error is the caller's, not the engine's."""
        self._raise_failure()
        done: asyncio.Future[None] = self._loop.create_future()
        self._calling.add(done)
        done.add_done_callback(self._calling.discard)

        def settle(error: BaseException | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        def run(engine: Engine) -> None:
            try:
                call(engine)
            except Exception as error:
                self._loop.call_soon_threadsafe(settle, error)
            else:
                self._loop.call_soon_threadsafe(settle, None)

        self._inbox.put(run)
        await done

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise EngineFailed(self._words())

    def _words(self) -> str:
        return f"the vLLM engine failed:\n{self._failure}"
