"""The sandbox: a process that can see and reach nothing but the pipes it was given.

It is forked from a warm interpreter (``server.py``) into namespaces of its own, which vanish with
it. What the programs are and which further limits they set on themselves stands in ``inside/``.
"""

import os
import select
import socket
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Self

from rlvr.config import CodeConfig
from rlvr.errors import SandboxError
from rlvr.verify.sandbox import server
from rlvr.verify.sandbox.inside import plain

_END_S = 5.0


class Sandbox:
    """One process in a sandbox of its own, which ends with the ``with`` block.

    Reading and writing raise TimeoutError at the deadline, BrokenPipeError or EOFError when the
    process is gone, and NotPlain for what is no value of ours.

    Args:
        program: of ``rlvr.verify.sandbox.inside``: ``host``, ``tester`` or ``comparer``.
        limits: the program sets them on itself.
        deadline: on ``time.monotonic``; by default ``limits.wall_s`` from now on, or from when the
            server is there.
        keep: further descriptors for the process; it has them as 3, 4, ...

    Raises SandboxError if there is no sandbox to start it in, or ConfigError without bubblewrap.
    """

    def __init__(
        self,
        program: str,
        limits: CodeConfig,
        deadline: float | None = None,
        keep: Sequence[int] = (),
    ) -> None:
        self.limits = limits
        self.server = self._running()
        self.start = time.monotonic()
        self.deadline = self.start + limits.wall_s if deadline is None else deadline
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        request: dict[str, Any] = {"program": program, "folder": "/tmp", "cpu_s": limits.cpu_s}
        for kind in ("disk", "memory", "output"):
            request[kind] = getattr(limits, f"{kind}_mib") * 2**20
        if limits.sandbox == "unsafe":
            self._folder = tempfile.TemporaryDirectory(prefix="rlvr-unsafe-")
            request |= {"folder": self._folder.name, "disk": None}
        stdin, self.requests = os.pipe()
        self.answers, stdout = os.pipe()
        try:
            self._leash = self.server.fork(plain.encode(request), [stdin, stdout, *keep])
        except OSError:
            self._close()
            raise SandboxError(f"the sandbox is gone: {self.server.last_words()}") from None
        finally:
            os.close(stdin)
            os.close(stdout)

    def _running(self) -> server.SandboxServer:
        """The fork server, as soon as there is room for its process, if it is not there."""
        until = time.monotonic() + self.limits.wall_s
        while True:
            try:
                return server.running(self.limits.sandbox)
            except BlockingIOError as error:
                if time.monotonic() > until:
                    raise SandboxError(f"no room for another process: {error}") from None
                time.sleep(0.1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process and everything in its namespaces; returns when it is gone."""
        self._leash.shutdown(socket.SHUT_WR)
        self._leash.settimeout(_END_S)
        try:
            while self._leash.recv(4):
                pass
        except TimeoutError:
            server.end(self.limits.sandbox)
        finally:
            self._leash.close()
            self._close()

    def send(self, value: object) -> None:
        self.write(plain.encode(value))

    def write(self, data: bytes) -> None:
        os.set_blocking(self.requests, False)
        try:
            plain.write(self.requests, data, partial(self._wait, self.requests, select.POLLOUT))
        finally:
            os.set_blocking(self.requests, True)  # for the tester, which has it, too

    def receive(self) -> Any:
        return plain.decode(self.read())

    def read(self) -> bytes:
        limit = self.limits.output_mib * 2**20 + 4096
        return plain.read(self.answers, limit, partial(self._wait, self.answers, select.POLLIN))

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
