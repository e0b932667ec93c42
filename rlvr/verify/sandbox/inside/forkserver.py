"""The warm interpreter from which every sandboxed program is forked.

bubblewrap starts it once for each process that verifies. It takes requests from its standard
input, a socket::

    [program, bytes of /tmp or None, folder]  +  descriptors: leash, stdin, stdout, others

For each it forks a *keeper*. The keeper moves into fresh namespaces and forks, as the first process
there, the program that was asked for, which gives up the last capability. So no program shares
files, processes, memory or network with another, and none can reach the server, which in turn never
reads what the programs are given. The keeper kills its program, and with it the namespaces, when
the other end of the leash is let go, and writes the program's wait status there when it ends.

Without bubblewrap (``verifier.code.sandbox=unsafe``) there are no namespaces.
"""

from __future__ import annotations

import bisect  # noqa: F401  from here on, what programs import most: they find it imported
import collections  # noqa: F401
import functools  # noqa: F401
import gc
import heapq  # noqa: F401
import itertools  # noqa: F401
import math  # noqa: F401
import os
import random  # noqa: F401
import re  # noqa: F401
import resource
import select
import signal
import socket
import string  # noqa: F401
import typing  # noqa: F401

from rlvr.verify.sandbox.inside import confine, host, plain, tester

_PROGRAMS = {"host": host.main, "tester": tester.main}


def main() -> None:
    """Serve until the socket ends. Also returns in each forked program, at its end."""
    requests = socket.socket(fileno=0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))
    gc.collect()
    gc.freeze()  # keep the collector off the pages that the forks share
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, 4096, 8)
        if not request:
            return
        if os.fork() == 0:
            requests.detach()
            _keep(*plain.decode(request), *descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)


def _keep(program: str, disk: int | None, folder: str, leash: int, *streams: int) -> None:
    """Fork ``program``, in which this returns at its end, and watch over it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if disk is not None:
        confine.isolate(disk)
    pid = os.fork()
    if pid == 0:
        confine.die_with_parent()
        os.setpgid(0, 0)  # kill(0) reaches a whole group, across namespaces
        os.chdir(folder)
        if disk is not None:
            confine.drop_capabilities()
        for target, stream in zip((0, 1, 3, 4), streams, strict=False):
            os.dup2(stream, target)  # they are in ascending order, each above its target
        os.closerange(len(streams) + 1, 64)
        _PROGRAMS[program]()
        return
    for descriptor in (0, *streams):
        os.close(descriptor)
    end = os.pidfd_open(pid)
    events = select.poll()
    events.register(leash, select.POLLIN)
    events.register(end, select.POLLIN)
    events.poll()
    for kill in (os.killpg, os.kill):  # it may not have its group yet
        try:
            kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    _, status = os.waitpid(pid, 0)
    try:
        os.write(leash, status.to_bytes(4, "little"))
    except BrokenPipeError:
        pass
    os._exit(0)
