"""A fork server whose user may have no more processes."""

import os
import random
import select
import socket
import sys
from collections.abc import Iterator

import pytest

from rlvr.verify.forkserver import ForkServer

SERVER = """
import os, resource, socket, sys, time
from rlvr.verify.sandbox.inside import keeper

def start(request, descriptors):
    leash, stream = descriptors
    keeper.keep(leash, [stream])
    os.write(stream, request)
    time.sleep(60)

user, processes = map(int, sys.argv[1:])
os.setgroups([])
os.setresgid(user, user, user)
os.setresuid(user, user, user)
resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))
keeper.serve(socket.socket(fileno=0), start)
"""

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="becomes a user without processes")


@pytest.fixture
def full(request: pytest.FixtureRequest) -> Iterator[ForkServer]:
    """With room for so many processes, itself included; a program takes two."""
    user = str(random.randrange(10**6, 10**9))
    server = ForkServer([sys.executable, "-c", SERVER, user, str(request.param)])
    yield server
    server.close()
    assert server.process.returncode in (0, 1)  # it was not killed


class Program:
    def __init__(self, server: ForkServer) -> None:
        self.stream, theirs = socket.socketpair()
        with theirs:
            self.leash = server.fork(b"x", [theirs.fileno()])
        for end in (self.stream, self.leash):
            end.settimeout(20)

    def end(self) -> bytes:
        """Its wait status, if it ran."""
        self.leash.shutdown(socket.SHUT_WR)
        with self.leash, self.stream:
            return self.leash.recv(4)


KILLED = (9).to_bytes(4, "little")


@pytest.mark.parametrize("full", [3, 4], indirect=True)
def test_a_program_waits_for_room(full: ForkServer) -> None:
    running = Program(full)
    assert running.stream.recv(1) == b"x"
    for _ in range(3):  # the server finds no room for the keeper, or that for the program
        waiting = Program(full)
        assert not select.select([waiting.stream], [], [], 0.3)[0]
        assert running.end() == KILLED
        assert waiting.stream.recv(1) == b"x"
        running = waiting
    assert running.end() == KILLED


@pytest.mark.parametrize("full", [1, 2], indirect=True)
def test_one_that_is_let_go_while_it_waits_never_runs(full: ForkServer) -> None:
    waiting = Program(full)
    assert not select.select([waiting.stream], [], [], 0.3)[0]
    full.socket.close()
    assert waiting.end() == b""
