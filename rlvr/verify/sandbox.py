"""The sandbox: a process that can see and reach nothing but the pipes it was given.

It is forked from a warm interpreter (``rlvr.verify.forkserver``) into namespaces of its own: its
own ``/tmp`` in memory, no other process, no network. It all vanishes with the process. What the
programs inside are and which further limits they set on themselves stands in
``rlvr.verify.inside``.
"""

from __future__ import annotations

import os
import select
import shutil
import socket
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from rlvr.config import CodeConfig
from rlvr.errors import ConfigError, SandboxError
from rlvr.verify import forkserver
from rlvr.verify.forkserver import MISSING
from rlvr.verify.inside import confine, plain

_END_S = 5.0

BROKEN = (
    "verifier 'code': the sandbox does not start: {reason}\nIf namespaces are forbidden here, "
    "allow them (in Docker: --security-opt seccomp=unconfined --security-opt apparmor=unconfined; "
    "on Ubuntu: sysctl kernel.apparmor_restrict_unprivileged_userns=0), or set "
    "verifier.code.sandbox=unsafe to run programs without any protection."
)


class Sandbox:
    """One process in a sandbox of its own, which ends with the ``with`` block.

    Args:
        program: what to run, ``host`` or ``tester`` of ``rlvr.verify.inside``.
        limits: the size of ``/tmp`` is bound here, the rest by the program itself.
        deadline: on ``time.monotonic``; what takes longer raises TimeoutError.
        keep: further descriptors for the process; it has them as 3, 4, ...

    Raises SandboxError if there is no sandbox to start it in.
    """

    def __init__(
        self, program: str, limits: CodeConfig, deadline: float, keep: Sequence[int] = ()
    ) -> None:
        self.deadline = deadline
        self._kind = limits.sandbox
        self._limit = limits.output_mib * 2**20 + 4096
        self._server = forkserver.server(limits.sandbox)
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        disk: int | None = limits.disk_mib * 2**20
        if limits.sandbox == "unsafe":
            disk, self._folder = None, tempfile.TemporaryDirectory(prefix="rlvr-unsafe-")
        stdin, self.requests = os.pipe()
        self.answers, stdout = os.pipe()
        self._leash, leash = socket.socketpair()
        try:
            folder = self._folder.name if self._folder else "/tmp"
            self._server.fork(program, disk, folder, [leash.fileno(), stdin, stdout, *keep])
        except SandboxError:
            self._close()
            raise
        finally:
            leash.close()
            os.close(stdin)
            os.close(stdout)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def send(self, value: object) -> None:
        """Write a value to the process. Raises BrokenPipeError if it is gone, or TimeoutError."""
        data = plain.encode(value)
        rest = memoryview(len(data).to_bytes(4, "little") + data)
        os.set_blocking(self.requests, False)
        try:
            while rest:
                self._wait(self.requests, select.POLLOUT)
                rest = rest[os.write(self.requests, rest) :]
        finally:
            os.set_blocking(self.requests, True)

    def receive(self) -> Any:
        """Read a value. Raises EOFError if the process is gone, NotPlain, or TimeoutError."""
        size = int.from_bytes(self._read(4), "little")
        if size > self._limit:
            raise plain.NotPlain(f"more than {self._limit >> 20} MiB of output")
        return plain.decode(self._read(size))

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
            raise SandboxError(f"the sandbox was ended: {self._server.last_words()}")
        return int.from_bytes(status, "little")

    def kill(self) -> None:
        """End the process and everything in its namespaces; returns when it is gone."""
        self._leash.shutdown(socket.SHUT_WR)
        self._leash.settimeout(_END_S)
        try:
            while self._leash.recv(4):
                pass
        except TimeoutError:
            forkserver.end(self._kind)
        finally:
            self._close()

    def last_words(self) -> str:
        """Why it did not start, as far as it said so."""
        return self._server.last_words()

    def _close(self) -> None:
        self._leash.close()
        os.close(self.requests)
        os.close(self.answers)
        if self._folder:
            self._folder.cleanup()

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            self._wait(self.answers, select.POLLIN)
            chunk = os.read(self.answers, min(size - len(data), 1 << 20))
            if not chunk:
                raise EOFError
            data += chunk
        return bytes(data)

    def _wait(self, descriptor: int, event: int) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        left = self.deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise TimeoutError


def check(limits: CodeConfig) -> None:
    """Start a sandbox and end it. Raises ConfigError with what to do if that is impossible."""
    if limits.sandbox not in ("bubblewrap", "unsafe"):
        raise ConfigError(
            f"verifier.code.sandbox={limits.sandbox}: no such sandbox. Valid: bubblewrap, unsafe."
        )
    if os.uname().machine not in confine.MACHINES:
        raise ConfigError(
            f"verifier 'code' knows the system calls of {', '.join(confine.MACHINES)}, not of "
            f"{os.uname().machine}; use another machine for it."
        )
    if limits.sandbox == "bubblewrap" and shutil.which("bwrap") is None:
        raise ConfigError(MISSING)
    with Sandbox("host", limits, time.monotonic() + 60.0) as sandbox:
        try:
            sandbox.receive()
            sandbox.send(job("", call=True, limits=limits))
            answers = [sandbox.receive(), sandbox.receive()]
        except (EOFError, OSError, TimeoutError) as error:
            reason = sandbox.last_words() or repr(error)
            raise ConfigError(BROKEN.format(reason=reason)) from None
    forkserver.end(limits.sandbox)  # the processes that verify fork off from this one
    if answers != [["compiled"], ["ready"]]:
        raise ConfigError(BROKEN.format(reason=answers))


def job(program: str, *, call: bool, limits: CodeConfig) -> dict[str, Any]:
    """What ``rlvr.verify.inside.host`` wants to know."""
    return {
        "program": program,
        "call": call,
        "cpu_s": limits.cpu_s,
        "memory": limits.memory_mib * 2**20,
        "file_size": limits.output_mib * 2**20,
    }
