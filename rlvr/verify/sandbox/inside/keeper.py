"""The work of a fork server, the same for the sandbox's programs and for the verifiers' workers.

A fork server is a warm interpreter that does nothing but fork. It takes requests from a socket that
keeps message boundaries. With each come descriptors, of which the first is a *leash*. For each it
forks a *keeper*, which forks what was asked for and watches over it: it kills it, with everything
in its process group, when the leash's other end is let go or the server ends. The wait status goes
onto the leash, unless the server ended.
"""

import ctypes
import gc
import os
import select
import signal
import socket
from collections.abc import Callable, Sequence

_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


def serve(requests: socket.socket, start: Callable[[bytes, list[int]], None]) -> None:
    """Fork at each request until the socket ends; ``start`` gets the request in the fork.

    Also returns in each fork, when ``start`` does.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
    gc.collect()
    gc.freeze()  # keep the collector off the pages that the forks share
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, 4096, 8)
        if not request:
            return
        if fork(requests.fileno()) == 0:
            requests.close()
            start(request, descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)


def fork(owner: int) -> int:
    """Fork, as soon as there is room for another process; end if the owner goes away meanwhile."""
    waiting = select.poll()
    waiting.register(owner, select.POLLRDHUP)
    pause_ms = 10
    while True:
        try:
            return os.fork()
        except OSError:  # EAGAIN, ENOMEM
            if waiting.poll(pause_ms):
                os._exit(1)
            pause_ms = min(2 * pause_ms, 1000)


def keep(leash: int, streams: Sequence[int]) -> None:
    """Fork and become the keeper of the child; returns in the child, which has no leash."""
    server = os.pidfd_open(os.getppid())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = fork(leash)
    if pid == 0:
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        os.setpgid(0, 0)  # kill(0) reaches a whole group, across namespaces
        os.close(server)
        os.close(leash)
        return
    for descriptor in streams:
        os.close(descriptor)
    events = select.poll()
    for descriptor in (leash, server, os.pidfd_open(pid)):
        events.register(descriptor, select.POLLIN)
    happened = dict(events.poll())
    for kill in (os.killpg, os.kill):  # it may not have its group yet
        try:
            kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    _, status = os.waitpid(pid, 0)
    if server not in happened:  # else it did not end by itself, and no status says so
        try:
            os.write(leash, status.to_bytes(4, "little"))
        except BrokenPipeError:
            pass
    os._exit(0)
