"""The warm interpreter from which every sandboxed program is forked.

bubblewrap starts it once for each process that verifies. It takes requests (see ``keeper``) from
its standard input, a socket::

    {program, folder, disk, cpu_s, memory, output}  +  descriptors: leash, stdin, stdout, others

in bytes and seconds. The keeper of each moves into fresh namespaces and forks, as the first process
there, the program that was asked for, which gives up the last capability before it runs any code of
others. So no program shares files, processes, memory or network with another, and none can reach
the server, which in turn never reads what the programs are given.

Without bubblewrap (``verifier.code.sandbox=unsafe``) there are no namespaces; ``disk`` is None.
"""

import bisect  # noqa: F401  from here on, what programs import most: they find it imported
import collections  # noqa: F401
import functools  # noqa: F401
import heapq  # noqa: F401
import itertools  # noqa: F401
import math  # noqa: F401
import os
import random  # noqa: F401
import re  # noqa: F401
import socket
import string  # noqa: F401
import typing  # noqa: F401

from rlvr.verify.sandbox.inside import comparer, confine, host, keeper, plain, tester

_PROGRAMS = {"host": host.main, "tester": tester.main, "comparer": comparer.main}


def main() -> None:
    """Say that it is there, and serve until the socket ends.

    Also returns in each forked program, at its end.
    """
    requests = socket.socket(fileno=0)
    requests.send(b"-")
    keeper.serve(requests, _start)


def _start(request: bytes, descriptors: list[int]) -> None:
    limits = plain.decode(request)
    leash, *streams = descriptors
    if limits["disk"] is not None:
        confine.isolate()
    keeper.keep(leash, streams)
    os.chdir(limits["folder"])
    for target, stream in zip((0, 1, 3, 4), streams, strict=False):
        os.dup2(stream, target)  # they are in ascending order, each above its target
    confine.close_from(len(streams) + 1)
    _PROGRAMS[limits["program"]](limits)
