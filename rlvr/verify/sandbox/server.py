"""The fork server of the sandboxes: one for each process that verifies code.

bubblewrap unshares every namespace around it. Inside are a Python interpreter with its standard
library, read-only; ``/dev/null``, ``/dev/zero`` and ``/dev/urandom``; no ``/proc``, no environment.
The program that it runs, ``inside/forkserver.py``, gives each program namespaces of its own.
"""

import glob
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rlvr.errors import ConfigError, SandboxError
from rlvr.verify.forkserver import ForkServer
from rlvr.verify.sandbox.inside import plain
from rlvr.verify.sandbox.inside.confine import NOBODY

_INSIDE = Path(plain.__file__).parent
_ROOT = _INSIDE.parents[3]  # the folder that holds our package
_APP = "/app"
_INTERPRETER = os.path.realpath(sys.executable)
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "HOME": "/tmp", "TMPDIR": "/tmp"}
_STDERR = 2000
_START_S = 60.0

Result = TypeVar("Result")

_MISSING = (
    "verifier 'code' runs what a model has written, and needs bubblewrap for it, which is not "
    "installed. Install the package 'bubblewrap' on every machine (apt-get install bubblewrap, "
    "dnf install bubblewrap, conda install -c conda-forge bubblewrap), or set "
    "verifier.code.sandbox=unsafe to run programs without any protection."
)


class SandboxServer(ForkServer):
    """A fork server of the kind ``bubblewrap`` or ``unsafe``, ready to fork.

    Raises ConfigError without bubblewrap, SandboxError if it does not come up.
    """

    def __init__(self, kind: str) -> None:
        bare = kind == "unsafe"
        command = python(str(_ROOT)) if bare else [*bubblewrap(), *python(_APP)]
        self._stderr = os.memfd_create("stderr")
        try:
            self._start(command, as_nobody=not bare and os.getuid() == 0)
        except OSError:
            os.close(self._stderr)
            raise
        self.socket.settimeout(_START_S)
        try:
            ready = self.socket.recv(1)
        except OSError:  # late, or gone
            ready = b""
        self.socket.settimeout(None)
        if not ready:
            words = self.last_words()
            self.close()
            raise SandboxError(f"the sandbox does not start: {words or f'in {_START_S:g} s'}")

    def _start(self, command: list[str], as_nobody: bool) -> None:
        """Start it, with a second user in its namespace for the programs to become.

        What a superuser starts stays one for the kernel, if it does not become another: no limit of
        threads binds it, and it owns the machine's files.
        """
        options = {"stdout": subprocess.DEVNULL, "stderr": self._stderr, "env": _ENVIRONMENT}
        if not as_nobody:
            super().__init__(command, cwd="/", **options)
            return
        info, told = os.pipe()
        wait, go = os.pipe()
        command[1:1] = ["--info-fd", str(told), "--userns-block-fd", str(wait)]
        with open(info) as answer, open(go, "wb", buffering=0) as mapped:
            try:
                super().__init__(command, cwd="/", pass_fds=(told, wait), **options)
            finally:
                os.close(told)
                os.close(wait)
            if words := answer.read():
                _map_users(json.loads(words)["child-pid"])
                mapped.write(b"-")

    def last_words(self) -> str:
        """The end of what it and its programs, before they are the model's, wrote on stderr."""
        size = os.fstat(self._stderr).st_size
        words = os.pread(self._stderr, _STDERR, max(0, size - _STDERR))
        return words.decode("utf-8", "replace").strip()

    def close(self) -> None:
        super().close()
        os.close(self._stderr)


_servers: dict[tuple[int, str], SandboxServer] = {}  # a fork of this process must have its own
_starting = threading.Lock()


def running(kind: str) -> SandboxServer:
    """This process's fork server, which is started if need be."""
    with _starting:
        key = (os.getpid(), kind)
        if key not in _servers:
            _servers[key] = SandboxServer(kind)
        return _servers[key]


def end(kind: str) -> None:
    """End this process's fork server, if there is one; the next sandbox starts another."""
    with _starting:
        found = _servers.pop((os.getpid(), kind), None)
    if found is not None:
        found.close()


def retried(kind: str, call: Callable[[], Result]) -> Result:
    """What ``call`` gives, at the second try with another fork server if the sandbox failed."""
    try:
        return call()
    except SandboxError:
        end(kind)
        return call()


def python(path: str) -> list[str]:
    """The command that runs the fork server; our package lies in ``path``."""
    start = f"import sys; sys.path.insert(0, {path!r}); "
    start += "from rlvr.verify.sandbox.inside.forkserver import main; sys.path.pop(0); main()"
    # No site, no user folder, no bytecode. (-I would also ignore PYTHONHASHSEED.)
    return [_INTERPRETER, "-S", "-s", "-B", "-c", start]


def bubblewrap() -> list[str]:
    """The beginning of a command that puts the rest of it into a sandbox."""
    program = shutil.which("bwrap")
    if program is None:
        raise ConfigError(_MISSING)
    words = [program, "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session"]
    # For the namespaces and the user of each program, which itself has no capability.
    words += ["--cap-drop", "ALL", "--cap-add", "CAP_SYS_ADMIN"]
    words += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    words += ["--uid", str(NOBODY), "--gid", str(NOBODY), "--hostname", "sandbox"]
    inside = f"{_APP}/rlvr/verify/sandbox/inside"
    # Bubblewrap would make the folders above what is bound for its own user alone.
    bound = map(Path, [*_system(), inside, "/dev/null", "/tmp"])
    above = {str(folder) for path in bound for folder in path.parents}
    for folder in sorted(above - {"/"}):
        words += ["--dir", folder]
    for folder in _system():
        if os.path.islink(folder):
            words += ["--symlink", os.readlink(folder), folder]
        else:
            words += ["--ro-bind", folder, folder]
            for packages in glob.glob(f"{glob.escape(folder)}/python*/*-packages"):
                if not os.path.islink(packages):  # benchmarks may be installed, with their tests
                    words += ["--tmpfs", packages, "--remount-ro", packages]
    words += ["--ro-bind", str(_INSIDE), inside]
    for device in ("null", "zero", "urandom"):
        words += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    return [*words, "--dir", "/tmp", "--remount-ro", "/", "--chdir", "/", "--"]


def _map_users(pid: int) -> None:
    """Give the namespace of bubblewrap's child its superuser, under another number, and nobody."""
    for kind in ("uid", "gid"):
        path = Path(f"/proc/{pid}/{kind}_map")
        try:
            path.write_text(f"{NOBODY - 1} 0 1\n{NOBODY} {NOBODY} 1\n")
        except PermissionError:  # a superuser of a small namespace, who is another one outside
            Path(f"/proc/{pid}/setgroups").write_text("deny")
            path.write_text(f"{NOBODY} 0 1\n")


def _system() -> list[str]:
    """What an interpreter needs, and not the folders beside it: data may lie there."""
    paths = ["/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache"]
    prefix = sysconfig.get_config_var("installed_base")
    paths += [f"{prefix}/lib", _INTERPRETER]
    return [path for path in dict.fromkeys(paths) if os.path.lexists(path)]
