"""The sandbox: a process that can see and reach nothing but the pipes it was given.

bubblewrap unshares every namespace (files, processes, network, users, IPC, host name). Inside are
a Python interpreter with its standard library, read-only; ``/dev/null``, ``/dev/zero`` and
``/dev/urandom``; a small ``/tmp`` in memory; no ``/proc``, no capabilities, no environment. It all
vanishes with the process. What the programs inside are and which further limits they set on
themselves stands in ``rlvr.verify.inside``.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from rlvr.config import CodeConfig
from rlvr.errors import ConfigError
from rlvr.verify.inside import confine, host, plain

_INSIDE = Path(plain.__file__).parent
_ROOT = _INSIDE.parents[2]  # the folder that holds our package
_APP = "/app"
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "HOME": "/tmp", "TMPDIR": "/tmp"}
_STDERR = 2000
_END_S = 5.0

MISSING = (
    "verifier 'code' runs what a model has written, and needs bubblewrap for it, which is not "
    "installed. Install the package 'bubblewrap' on every machine (apt-get install bubblewrap, "
    "dnf install bubblewrap, conda install -c conda-forge bubblewrap), or set "
    "verifier.code.sandbox=unsafe to run programs without any protection."
)
BROKEN = (
    "verifier 'code': the sandbox does not start: {reason}\nIf namespaces are forbidden here, "
    "allow them (in Docker: --security-opt seccomp=unconfined --security-opt apparmor=unconfined; "
    "on Ubuntu: sysctl kernel.apparmor_restrict_unprivileged_userns=0), or set "
    "verifier.code.sandbox=unsafe to run programs without any protection."
)


class SandboxError(Exception):
    """The sandbox, not the program in it, failed."""


class Sandbox:
    """One process in a sandbox of its own, which ends with the ``with`` block.

    Args:
        program: what to run, the module ``host`` or ``tester`` of ``rlvr.verify.inside``. (It is
            imported out here, too: that leaves its bytecode for the inside.)
        limits: memory and disk are bound here, the rest by the program itself.
        deadline: on ``time.monotonic``; what takes longer raises TimeoutError.
        keep: descriptors that the process inherits.
    """

    def __init__(
        self, program: ModuleType, limits: CodeConfig, deadline: float, keep: Sequence[int] = ()
    ) -> None:
        self.deadline = deadline
        self._limit = limits.output_mib * 2**20 + 4096
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        if limits.sandbox == "unsafe":
            self._folder = tempfile.TemporaryDirectory(prefix="rlvr-unsafe-")
            command = _python(program, str(_ROOT))
        else:
            command = [*_bubblewrap(limits), *_python(program, _APP)]
        self._stderr = os.memfd_create("stderr")
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                bufsize=0,
                pass_fds=keep,
                env=_ENVIRONMENT,
                cwd=self._folder.name if self._folder else "/",
                process_group=0 if self._folder else None,
            )
        except FileNotFoundError:
            os.close(self._stderr)
            raise SandboxError(MISSING) from None
        assert self._process.stdin is not None and self._process.stdout is not None
        self.requests: int = self._process.stdin.fileno()
        self.answers: int = self._process.stdout.fileno()

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

    def exit_status(self) -> int:
        """How a process that is about to be gone ended: its exit status, or 128 and the signal."""
        try:
            status = self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:  # it has only closed its pipes
            return 0
        return status if status >= 0 else 128 - status

    def kill(self) -> None:
        """End the process and everything in its namespaces."""
        if self._folder:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self._folder.cleanup()
        self._end_inside()
        try:
            self._process.wait(timeout=_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        os.close(self._stderr)

    def _end_inside(self) -> None:
        """Kill the first process inside and with it all others; bubblewrap then reaps and ends.

        Killing bubblewrap would do, too, but leave a zombie where nobody reaps orphans, as in many
        containers.
        """
        pid = self._process.pid
        if self._process.poll() is not None:  # the number may be another's by now
            return
        try:
            with open(f"/proc/{pid}/task/{pid}/children") as children:
                first = [int(child) for child in children.read().split()]
        except OSError:
            first = []
        for child in first or [pid]:
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def last_words(self) -> str:
        """The end of what the process wrote to its standard error before a program had it."""
        size = os.fstat(self._stderr).st_size
        words = os.pread(self._stderr, _STDERR, max(0, size - _STDERR))
        return words.decode("utf-8", "replace").strip()

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
    with Sandbox(host, limits, time.monotonic() + 60.0) as sandbox:
        try:
            sandbox.receive()
            sandbox.send(job("", call=True, limits=limits))
            answers = [sandbox.receive(), sandbox.receive()]
        except (EOFError, OSError, TimeoutError) as error:
            reason = sandbox.last_words() or repr(error)
            raise ConfigError(BROKEN.format(reason=reason)) from None
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


def _python(program: ModuleType, path: str) -> list[str]:
    start = f"import sys; sys.path.insert(0, {path!r}); "
    start += f"from {program.__name__} import main; sys.path.pop(0); main()"
    # No site, no user folder, no bytecode. (-I would also ignore PYTHONHASHSEED.)
    return [_interpreter(), "-S", "-s", "-B", "-c", start]


def _interpreter() -> str:
    return os.path.realpath(sys.executable)


def _bubblewrap(limits: CodeConfig) -> list[str]:
    words = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    words += ["--uid", "65534", "--gid", "65534", "--hostname", "sandbox"]
    for folder in _system():
        if os.path.islink(folder):
            words += ["--symlink", os.readlink(folder), folder]
        else:
            words += ["--ro-bind", folder, folder]
    words += ["--ro-bind", str(_INSIDE), f"{_APP}/rlvr/verify/inside"]
    for device in ("null", "zero", "urandom"):
        words += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    words += ["--size", str(limits.disk_mib * 2**20), "--tmpfs", "/tmp"]
    return [*words, "--remount-ro", "/", "--chdir", "/tmp", "--"]


def _system() -> list[str]:
    """What an interpreter needs, and not the folders beside it: data may lie there."""
    paths = ["/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache"]
    prefix = sysconfig.get_config_var("installed_base")
    paths += [f"{prefix}/lib", _interpreter()]
    return [path for path in dict.fromkeys(paths) if os.path.lexists(path)]
