"""Machines made of namespaces: each has its own address, host name, processes, /tmp and /dev/shm.

They hang on one switch, and share the files of the real machine. An ordinary user can make them
wherever user namespaces are allowed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil

_ROOT = Path(__file__).parents[2]
_SWITCH = """
ip link set lo up
ip link add br0 type bridge
ip link set br0 up
echo
exec cat
"""
_MACHINE = """
mount -t proc proc /proc
mount --bind {shared} /mnt
exec 3<{root} 4<{python}
mount -t tmpfs tmpfs /tmp
mkdir -p {root} {python}
mount --no-canonicalize --bind /proc/self/fd/3 {root}
mount --no-canonicalize --bind /proc/self/fd/4 {python}
exec 3<&- 4<&-
mount -t tmpfs tmpfs /dev/shm
hostname {name}
ip link set lo up
echo
exec cat
"""
_ALL = ("--user", "--net", "--mount", "--pid", "--uts", "--ipc")


class NoMachines(Exception):
    """This system does not let its users make namespaces; the text says what it refused."""


class Machine:
    """A host ``name`` at ``address``; ``/mnt`` is the folder that all machines share."""

    def __init__(self, switch: int, number: int, shared: Path) -> None:
        self.name, self.address, self._port = f"host{number}", f"10.77.0.{number}", f"v{number}"
        self._switch = switch
        words = ["unshare", "--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"]
        self._root = _started(
            [*_into(switch, "--user", "--net", "--mount"), *words],
            _MACHINE.format(shared=shared, name=self.name, root=_ROOT, python=sys.prefix),
        )
        [child] = psutil.Process(self._root.pid).children()
        self._pid = child.pid
        self._on_switch(f"link add {self._port} type veth peer name eth0 netns {self._pid}")
        self._on_switch(f"link set {self._port} master br0 up")
        address = f"ip addr add {self.address}/24 dev eth0 && ip link set eth0 up"
        self.run(["sh", "-c", address]).check_returncode()

    def run(self, command: list[str], **options) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self._inside(command), capture_output=True, text=True, **options)

    def popen(self, command: list[str], **options) -> subprocess.Popen[str]:
        return subprocess.Popen(self._inside(command), text=True, **options)

    def cut(self) -> None:
        """Take the cable out."""
        self._on_switch(f"link set {self._port} down")

    def mend(self) -> None:
        self._on_switch(f"link set {self._port} up")

    def kill(self) -> None:
        """Take the power off: every process of it is gone at once, and none says so."""
        if self._root.poll() is None:
            self._on_switch(f"link delete {self._port}")
            self._root.kill()
            self._root.wait()

    def _inside(self, command: list[str]) -> list[str]:
        # From a folder as the machine sees it, for /tmp is another there.
        return [*_into(self._pid, *_ALL), "env", f"--chdir={_ROOT}", *command]

    def _on_switch(self, words: str) -> None:
        command = [*_into(self._switch, "--user", "--net"), "ip", *words.split()]
        subprocess.run(command, check=True, capture_output=True, text=True)


class Machines:
    """``count`` machines on one switch, which have ``shared`` at ``/mnt``."""

    def __init__(self, count: int, shared: Path) -> None:
        self._shared = shared
        self._switch = _started(
            ["unshare", "--user", "--map-root-user", "--net", "--mount"], _SWITCH
        )
        self.all = [Machine(self._switch.pid, 1 + i, shared) for i in range(count)]

    def replace(self, number: int) -> Machine:
        """Put a new machine where the one with this number was."""
        self.all[number].kill()
        self.all[number] = Machine(self._switch.pid, 1 + number, self._shared)
        return self.all[number]

    def close(self) -> None:
        for machine in self.all:
            machine.kill()
        self._switch.kill()
        self._switch.wait()


def _into(pid: int, *namespaces: str) -> list[str]:
    return ["nsenter", f"--target={pid}", *namespaces, "--preserve-credentials", "--"]


def _started(command: list[str], script: str) -> subprocess.Popen[str]:
    """A process that runs ``script`` and then waits; it has printed a line by now."""
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(
            [*command, "sh", "-ec", script], stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )
    except FileNotFoundError as error:
        raise NoMachines(str(error)) from error
    assert process.stdout is not None and process.stderr is not None
    if not process.stdout.readline():
        raise NoMachines(process.stderr.read().strip())
    return process
