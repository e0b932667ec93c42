"""The Ray actor that owns a fleet of verifier processes on one machine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from rlvr.config import VerifierConfig
from rlvr.verify.workers.fleet import Fleet

# A Ray call costs some milliseconds of processor time, as much as verifying fifty short responses.
PACE_S = 0.03  # from one call to the same actor to the next
_POLL_S = 0.25  # how long a call may wait for verdicts


class VerifierActor:
    """Takes responses, gives verdicts, in whatever order they come."""

    def __init__(self, config: VerifierConfig, verifiers: Sequence[str]) -> None:
        self._fleet = Fleet(config, verifiers, self._deliver)
        self._running = 0
        self._finished: list[tuple[int, bytes]] = []
        self._all_done = asyncio.Event()

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
        for limit in (PACE_S, _POLL_S - PACE_S):
            if not self._running or (self._finished and limit != PACE_S):
                break
            self._all_done.clear()
            try:
                await asyncio.wait_for(self._all_done.wait(), limit)
            except TimeoutError:
                pass
        if self._fleet.failed is not None:
            raise self._fleet.failed
        finished, self._finished = self._finished, []
        return finished

    async def close(self) -> None:
        """End the processes."""
        await self._fleet.close()

    def _deliver(self, task_id: int, verdict: bytes) -> None:
        self._finished.append((task_id, verdict))
        self._running -= 1
        if not self._running:
            self._all_done.set()
