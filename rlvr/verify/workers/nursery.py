"""The fork server of the workers and each worker, seen from the event loop of their owner.

The program that they run is ``rlvr.verify.workers.worker``.
"""

import asyncio
import json
import os
import pickle
import socket
import sys
from collections.abc import Sequence

from rlvr.config import VerifierConfig
from rlvr.errors import VerifierError
from rlvr.verify.forkserver import ForkServer
from rlvr.verify.sandbox.inside import plain
from rlvr.verify.workers import worker

_START_S = 120.0  # to import the verifiers
_END_S = 30.0  # for a killed worker to be gone
_GRACE_S = 0.05

# Why a worker has no verdict, beside what it says itself (RETIRED, OUT_OF_MEMORY).
OVERRAN = b'"overran"'
DIED = b'"died"'


class Nursery(ForkServer):
    """The process that forks the workers. Its death is the workers' death."""

    def __init__(self, config: VerifierConfig, verifiers: Sequence[str]) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        # Equal hashes make equal orders: of sets, and so of what sympy does.
        environment |= {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", worker.__name__]
        super().__init__(command, env=environment, start_new_session=True)
        self.socket.send(pickle.dumps((config, verifiers)))
        self.socket.setblocking(False)

    async def ready(self) -> None:
        """Wait for its imports. Raises VerifierError with their traceback."""
        try:
            async with asyncio.timeout(_START_S):
                words = await asyncio.get_running_loop().sock_recv(self.socket, 65536)
            failed = json.loads(words)
        except (TimeoutError, OSError, ValueError) as error:
            raise VerifierError(
                f"the verifiers' nursery does not start within {_START_S:.0f} s or died; its own "
                f"words are in the log: {error!r}"
            ) from error
        if failed:
            raise VerifierError(f"cannot load the verifiers:\n{failed}")


class Worker:
    """One worker process, which has one task at a time."""

    def __init__(
        self, leash: socket.socket, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        leash.setblocking(False)
        self._leash, self._reader, self._writer = leash, reader, writer
        self.ended = asyncio.ensure_future(asyncio.get_running_loop().sock_recv(leash, 4))

    async def judge(self, task: bytes, timeout_s: float) -> bytes:
        """The encoded verdict on a pickled ``(Prompt, text)``, or why there is none.

        After anything but a verdict the worker must be ended.
        """
        self._writer.write(plain.framed(task))
        reading = asyncio.ensure_future(self._read())
        try:
            # A busy loop may see the clock before it sees the verdict.
            for limit in (timeout_s, _GRACE_S):
                await asyncio.wait({reading}, timeout=limit)
                if reading.done():
                    return reading.result()
            return OVERRAN
        except (asyncio.IncompleteReadError, ConnectionError):
            return DIED
        finally:
            reading.cancel()

    async def end(self) -> int:
        """Kill it and everything it started, if it lives; its wait status."""
        self._leash.shutdown(socket.SHUT_WR)
        try:
            status = await asyncio.wait_for(self.ended, _END_S)
        except (TimeoutError, OSError) as error:
            raise VerifierError(f"a verifier process cannot be ended: {error!r}") from error
        finally:
            self._leash.close()
            self._writer.transport.abort()
        return int.from_bytes(status or b"\x09", "little")  # none: killed with its keeper

    async def _read(self) -> bytes:
        size = int.from_bytes(await self._reader.readexactly(4), "little")
        return await self._reader.readexactly(size)


async def hire(nursery: Nursery) -> Worker:
    """A new worker. Raises VerifierError if the nursery is gone."""
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            leash = nursery.fork(b"-", [theirs.fileno()])
    except OSError as error:
        ours.close()
        raise VerifierError(f"the verifiers' nursery is gone: {error}") from error
    return Worker(leash, *await asyncio.open_unix_connection(sock=ours))
