"""The sandbox: a process that can see and reach nothing but the pipes it was given.

It is forked from a warm interpreter (``server.py``) into namespaces of its own: its own
``/tmp`` in memory, no other process, no network. It all vanishes with the process. What the
programs are and which further limits they set on themselves stands in ``inside/``.
"""

from __future__ import annotations

import os
import select
import socket
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from rlvr.config import CodeConfig
from rlvr.errors import SandboxError
from rlvr.verify.sandbox import server
from rlvr.verify.sandbox.inside import plain

_END_S = 5.0


class Sandbox:
    """One process in a sandbox of its own, which ends with the ``with`` block.

    Args:
        program: what to run, ``host`` or ``tester`` of ``rlvr.verify.sandbox.inside``.
        limits: the size of ``/tmp`` is bound here, the rest by the program itself.
        deadline: on ``time.monotonic``; what takes longer raises TimeoutError.
        keep: further descriptors for the process; it has them as 3, 4, ...

    Raises SandboxError if there is no sandbox to start it in, or ConfigError without bubblewrap.
    """

    def __init__(
        self, program: str, limits: CodeConfig, deadline: float, keep: Sequence[int] = ()
    ) -> None:
        self.deadline = deadline
        self._kind = limits.sandbox
        self._limit = limits.output_mib * 2**20 + 4096
        self.server = self._running()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        disk: int | None = limits.disk_mib * 2**20
        if limits.sandbox == "unsafe":
            disk, self._folder = None, tempfile.TemporaryDirectory(prefix="rlvr-unsafe-")
        stdin, self.requests = os.pipe()
        self.answers, stdout = os.pipe()
        try:
            request = [program, disk, self._folder.name if self._folder else "/tmp"]
            self._leash = self.server.fork(plain.encode(request), [stdin, stdout, *keep])
        except OSError:
            self._close()
            raise SandboxError(f"the sandbox is gone: {self.server.last_words()}") from None
        finally:
            os.close(stdin)
            os.close(stdout)

    def _running(self) -> server.SandboxServer:
        """The fork server, as soon as there is room for its process, if it is not there."""
        while True:
            try:
                return server.running(self._kind)
            except BlockingIOError as error:
                if time.monotonic() > self.deadline:
                    raise SandboxError(f"no room for another process: {error}") from None
                time.sleep(0.1)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def send(self, value: object) -> None:
        """Write a value to the process. Raises BrokenPipeError if it is gone, or TimeoutError."""
        self.write(plain.encode(value))

    def write(self, data: bytes) -> None:
        """Write bytes to the process; raises as ``send`` does."""
        ready = partial(self._wait, self.requests, select.POLLOUT)
        os.set_blocking(self.requests, False)
        try:
            plain.write(self.requests, data, ready)
        finally:
            os.set_blocking(self.requests, True)

    def receive(self) -> Any:
        """Read a value. Raises EOFError if the process is gone, NotPlain, or TimeoutError."""
        return plain.decode(self.read())

    def read(self) -> bytes:
        """Read bytes; raises as ``receive`` does."""
        ready = partial(self._wait, self.answers, select.POLLIN)
        return plain.read(self.answers, self._limit, ready)

    def exit_status(self) -> int | None:
        """The wait status of a process that is about to be gone; None if it goes on.

        Raises SandboxError if it was ended together with its keeper, so from outside.
        """
        self._leash.settimeout(1.0)
        try:
            status = self._leash.recv(4)
        except TimeoutError:  # it has only closed its pipes
            return None
        if not status:
            raise SandboxError(f"the sandbox was ended: {self.server.last_words()}")
        return int.from_bytes(status, "little")

    def kill(self) -> None:
        """End the process and everything in its namespaces; returns when it is gone."""
        self._leash.shutdown(socket.SHUT_WR)
        self._leash.settimeout(_END_S)
        try:
            while self._leash.recv(4):
                pass
        except TimeoutError:
            server.end(self._kind)
        finally:
            self._leash.close()
            self._close()

    def _close(self) -> None:
        os.close(self.requests)
        os.close(self.answers)
        if self._folder:
            self._folder.cleanup()

    def _wait(self, descriptor: int, event: int) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        left = self.deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise TimeoutError
