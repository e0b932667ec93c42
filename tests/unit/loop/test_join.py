"""A cluster that is not there is told at once."""

from __future__ import annotations

import socket

import pytest

from rlvr.errors import ConfigError
from rlvr.loop.cluster import join


def test_a_port_that_nobody_listens_at():
    with socket.socket() as taken:  # bound, so that nobody else takes it, and not listening
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(ConfigError, match="no Ray cluster takes us at 127.*refused.*ray start"):
            join(f"127.0.0.1:{taken.getsockname()[1]}")


def test_a_host_that_nobody_knows():
    with pytest.raises(ConfigError, match="no Ray cluster takes us at no-such-host.invalid:6379"):
        join("no-such-host.invalid:6379")
