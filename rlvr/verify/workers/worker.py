"""The program of the verifier processes: a nursery that forks workers, and the workers.

The nursery imports the verifiers once and is then a fork server (``sandbox/inside/keeper.py``), so
that a fresh worker is ready in milliseconds and shares the imported pages. It never sees a
response.

A worker reads tasks from a stream socket and answers each when it is judged, framed alike::

    task   = pickle((Prompt, text))       from our own driver
    answer = JSON                         a verdict as a list, or RETIRED or OUT_OF_MEMORY

Nothing of this file imports torch or Ray.
"""

import json
import math
import os
import pickle
import resource
import signal
import socket
import time
import traceback
from dataclasses import replace

from rlvr.config import VerifierConfig
from rlvr.errors import ConfigError, RunError
from rlvr.task import Outcome, Verdict
from rlvr.verify.base import load
from rlvr.verify.sandbox.inside import keeper, plain

# Answers of a worker that ends itself. A task that it has not answered goes to another one.
RETIRED = b'"retired"'  # after `recycle_after` tasks or over the memory mark
OUT_OF_MEMORY = b'"out of memory"'  # in the task at hand

_MAX_DETAIL = 1000


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


def _start(config: VerifierConfig, descriptors: list[int]) -> None:
    status = 1
    try:
        leash, tasks = descriptors
        keeper.keep(leash, [tasks])
        with open("/proc/self/statm") as file:
            virtual = int(file.read().split()[0]) * resource.getpagesize()
        allowed = virtual + config.memory_mib * 2**20  # beyond what the nursery has
        resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _work(tasks, config)
        status = 0
    except (EOFError, BrokenPipeError, ConnectionResetError):
        status = 0  # the owner went away
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _work(tasks: int, config: VerifierConfig) -> None:
    """Answer tasks until told to stop (the end of the stream) or due for renewal."""
    mark = _peak_kib() + config.memory_mib * 1024 // 2
    for _ in range(config.recycle_after):
        task = plain.read(tasks)
        try:
            answer = encode(_judge(task, config))
        except MemoryError:
            plain.write(tasks, OUT_OF_MEMORY)
            return
        plain.write(tasks, answer)
        if _peak_kib() > mark:
            break
    plain.write(tasks, RETIRED)


def _peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _judge(task: bytes, config: VerifierConfig) -> Verdict:
    prompt, text = pickle.loads(task)
    start = time.perf_counter()
    try:
        verdict = load(prompt.verifier, config).verify(prompt, text)
        if not isinstance(verdict, Verdict):
            kind = type(verdict).__name__
            raise TypeError(f"verifier '{prompt.verifier}' returned a {kind} instead of a Verdict")
        if not math.isfinite(verdict.reward):
            raise ValueError(f"verifier '{prompt.verifier}' gave the reward {verdict.reward}")
    except MemoryError:
        raise
    except Exception:
        verdict = Verdict(0.0, Outcome.ERROR, traceback.format_exc()[-_MAX_DETAIL:])
    return replace(verdict, seconds=time.perf_counter() - start)


def main() -> None:
    """``python -m rlvr.verify.workers.worker``, with the socket for requests as standard input.

    First comes ``pickle((config, names of verifiers))``. The answer, when they are imported, is why
    they cannot be used, or nothing.
    """
    requests = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the owner decides
    config, names = pickle.loads(requests.recv(1 << 16))
    failed = ""
    try:
        for name in names:
            load(name, config)
    except (ConfigError, RunError) as error:  # it says what to do, so where does not matter
        failed = str(error)
    except BaseException:
        failed = traceback.format_exc()[-4000:]
    requests.send(json.dumps(failed).encode())
    if not failed:
        keeper.serve(requests, lambda _, descriptors: _start(config, descriptors))


if __name__ == "__main__":
    main()
