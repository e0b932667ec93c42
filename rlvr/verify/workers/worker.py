"""The program of the verifier processes: a nursery that forks workers, and the workers.

The nursery imports the verifiers once and then only forks and reaps, so that a fresh worker is
ready in milliseconds and shares the imported pages. It never sees a response. It speaks with its
owner (``rlvr.verify.workers.nursery``) in JSON over a socket that keeps message boundaries; at the
socket's end, that is at the owner's death, it kills every worker and exits.

A worker reads tasks from a stream socket and answers each as soon as it is judged::

    task   = length (4 bytes) + pickle((Prompt, text))       from our own driver
    answer = length (4 bytes) + JSON                         a verdict as a list, or a RETIRE text

Nothing of this file imports torch or Ray.
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import os
import pickle
import resource
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from rlvr.config import VerifierConfig, typed
from rlvr.errors import ConfigError, RunError
from rlvr.task import Outcome, Prompt, Verdict
from rlvr.verify.base import Verifier, load
from rlvr.verify.reward import with_bonus

# Answers of a worker that ends itself. Tasks that it has not answered go to another one.
RETIRED = "retired"  # after `recycle_after` tasks or over the memory mark
OUT_OF_MEMORY = "out of memory"  # in the task at hand

_LENGTH = struct.Struct("<I")
_CHUNK = 1 << 18
_MAX_DETAIL = 1000
_PR_SET_PDEATHSIG = 1


def framed(payload: bytes) -> bytes:
    """``payload`` with its length in front."""
    return _LENGTH.pack(len(payload)) + payload


class Frames:
    """Cuts a byte stream into the payloads that were ``framed``."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The payloads that are complete with ``data``."""
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, start)
            end = start + _LENGTH.size + length
            if len(buffer) < end:
                break
            yield bytes(buffer[start + _LENGTH.size : end])
            start = end
        del buffer[:start]


def encode(verdict: Verdict) -> bytes:
    """A verdict as JSON, which, unlike a pickle, can do the reader no harm."""
    fields = [
        float(verdict.reward),
        str(verdict.outcome),
        verdict.detail[:_MAX_DETAIL].encode(errors="replace").decode(),
        verdict.seconds,
        {str(name): float(value) for name, value in verdict.components.items()},
    ]
    return json.dumps(fields).encode()


def decode(payload: bytes) -> Verdict:
    """The verdict that was encoded."""
    reward, outcome, detail, seconds, components = json.loads(payload)
    return Verdict(reward, Outcome(outcome), detail, seconds, components)


# -- worker -----------------------------------------------------------------------------------


def _work(tasks: socket.socket, verifiers: dict[str, Verifier], config: VerifierConfig) -> None:
    """Answer tasks until told to stop (the end of the stream) or due for renewal."""
    mark = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + config.memory_mib * 1024 // 2
    frames, served = Frames(), 0
    while data := tasks.recv(_CHUNK):
        for payload in frames.feed(data):
            _extend_cpu_limit(config)
            try:
                answer = encode(_judge(payload, verifiers, config))
            except MemoryError:
                tasks.sendall(framed(json.dumps(OUT_OF_MEMORY).encode()))
                return
            tasks.sendall(framed(answer))
            served += 1
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > mark
            if served >= config.recycle_after or grown:
                tasks.sendall(framed(json.dumps(RETIRED).encode()))
                return


def _judge(payload: bytes, verifiers: dict[str, Verifier], config: VerifierConfig) -> Verdict:
    prompt, text = pickle.loads(payload)
    start = time.perf_counter()
    try:
        verdict = _verify(prompt, text, verifiers, config)
    except MemoryError:
        raise
    except Exception:
        verdict = Verdict(0.0, Outcome.ERROR, traceback.format_exc()[-_MAX_DETAIL:])
    return replace(verdict, seconds=time.perf_counter() - start)


def _verify(
    prompt: Prompt, text: str, verifiers: dict[str, Verifier], config: VerifierConfig
) -> Verdict:
    verifier = verifiers.get(prompt.verifier)
    if verifier is None:
        verifier = verifiers[prompt.verifier] = load(prompt.verifier, config)
    verdict = verifier.verify(prompt, text)
    if not isinstance(verdict, Verdict):
        raise TypeError(
            f"verifier '{prompt.verifier}' returned a {type(verdict).__name__} instead of a Verdict"
        )
    if not math.isfinite(verdict.reward):
        raise ValueError(f"verifier '{prompt.verifier}' gave the reward {verdict.reward}")
    return with_bonus(verdict, text, config.format)


def _extend_cpu_limit(config: VerifierConfig) -> None:
    """Processor time up to the end of one more task: the last resort if the owner is stuck."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    allowed = math.ceil(time.process_time() + config.timeout_s) + 5
    if hard == resource.RLIM_INFINITY or allowed < hard:
        resource.setrlimit(resource.RLIMIT_CPU, (allowed, hard))


def _become_worker(nursery: int, memory_mib: int) -> None:
    """Die with the nursery, stand alone in a process group, and stay within the limits."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != nursery:  # it died before it could be told
        os._exit(1)
    os.setpgid(0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    allowed = _virtual_memory() + memory_mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))


def _virtual_memory() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


# -- nursery ----------------------------------------------------------------------------------


def _nurse(owner: socket.socket, verifiers: dict[str, Verifier], config: VerifierConfig) -> None:
    """Fork a worker for every socket that comes in; kill and reap on request."""
    children: set[int] = set()
    try:
        while True:
            message, descriptors, _, _ = socket.recv_fds(owner, 4096, 1)
            if not message:
                return
            request = json.loads(message)
            if descriptors:
                tasks = socket.socket(fileno=descriptors[0])
                pid = _fork(owner, tasks, verifiers, config)
                tasks.close()
                children.add(pid)
                owner.send(json.dumps({"pid": pid}).encode())
            else:
                pid = request["kill"]
                children.discard(pid)
                owner.send(json.dumps({"status": _kill(pid)}).encode())
    except (BrokenPipeError, ConnectionResetError):
        pass  # the owner went away
    finally:
        for pid in children:
            _kill(pid)


def _fork(
    owner: socket.socket,
    tasks: socket.socket,
    verifiers: dict[str, Verifier],
    config: VerifierConfig,
) -> int:
    nursery = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        owner.close()
        _become_worker(nursery, config.memory_mib)
        _work(tasks, verifiers, config)
        status = 0
    except (BrokenPipeError, ConnectionResetError):
        status = 0  # the owner went away
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _kill(pid: int) -> int:
    """Kill a worker with all that it started; its wait status as in ``os.waitpid``."""
    for kill in (os.killpg, os.kill):  # it may not have its group yet
        try:
            kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return os.waitpid(pid, 0)[1]


def main() -> None:
    """``python -m rlvr.verify.workers.worker SOCKET {"config": ..., "verifiers": [names]}``."""
    owner = socket.socket(fileno=int(sys.argv[1]))
    settings: dict[str, Any] = json.loads(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the owner decides
    try:
        config = typed(VerifierConfig, settings["config"], "verifier")
        verifiers = {name: load(name, config) for name in settings["verifiers"]}
    except (ConfigError, RunError) as error:  # it says what to do, so where does not matter
        owner.send(json.dumps({"failed": str(error)}).encode())
        return
    except BaseException:
        owner.send(json.dumps({"failed": traceback.format_exc()[-4000:]}).encode())
        return
    gc.collect()
    gc.freeze()  # keep the collector off the pages that the workers share
    owner.send(b"{}")
    _nurse(owner, verifiers, config)


def command(descriptor: int, config: VerifierConfig, verifiers: list[str]) -> list[str]:
    """The command line of a nursery whose owner's socket is ``descriptor``."""
    settings = json.dumps({"config": asdict(config), "verifiers": verifiers})
    return [sys.executable, "-m", __name__, str(descriptor), settings]


if __name__ == "__main__":
    main()
