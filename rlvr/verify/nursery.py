"""The process that forks the verifier processes, seen from its owner.

The program that it runs is ``rlvr.verify.worker``.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from rlvr.config import VerifierConfig
from rlvr.errors import VerifierError
from rlvr.verify.worker import command

_START_S = 120.0  # for it to import the verifiers
_ANSWER_S = 30.0  # for it to fork or reap


class Nursery:
    """The process that forks the workers. Its death is the workers' death."""

    def __init__(self, config: VerifierConfig, verifiers: Sequence[str]) -> None:
        self._config = config
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
                command(theirs.fileno(), self._config, self._verifiers),
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
