"""A fork server, seen from its owner; what it does stands in ``sandbox/inside/keeper.py``.

There are two kinds: the nursery of the verifiers' workers, and the one inside of bubblewrap.
"""

import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from typing import Any

_END_S = 5.0


class ForkServer:
    """One running fork server. Its death, or its owner's, is the death of all that it forked.

    Args:
        command: starts it; its standard input is the socket for requests.
        options: of ``subprocess.Popen``.
    """

    def __init__(self, command: Sequence[str], **options: Any) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self.process = subprocess.Popen(command, stdin=theirs.fileno(), **options)
        except OSError:
            self.socket.close()
            raise

    def fork(self, request: bytes, descriptors: Sequence[int]) -> socket.socket:
        """Start a process that gets the descriptors; nothing confirms the start.

        The leash comes back: its end ends the process and all in its process group; from it comes
        the wait status, four bytes, when they are gone. Raises OSError if the server is gone.
        """
        leash, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(self.socket, [request], [theirs.fileno(), *descriptors])
        except OSError:
            leash.close()
            raise
        return leash

    def close(self) -> None:
        self.socket.close()
        try:
            self.process.wait(timeout=_END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def ended(status: int) -> str:
    """How a process ended, by its wait status."""
    code = os.waitstatus_to_exitcode(status)
    names = {-number.value: number.name for number in signal.Signals}
    return f"killed by {names.get(code, f'signal {-code}')}" if code < 0 else f"exit status {code}"
