"""One verifier process: what its owner has of it, and the program that it runs.

The program is a *nursery*, which imports the verifiers once and is then a fork server
(``sandbox/inside/keeper.py``), so that a fresh worker is ready in milliseconds and shares the
imported pages. It never sees a response. A worker reads tasks from a stream socket and answers each
when it is judged, framed alike::

    task   = pickle((Prompt, text))           from our own driver: to be verified
           | pickle((Prompt, text, state))    a turn, to be replied to by the prompt's environment
    answer = JSON                             a verdict as a list, a reply as an object, or RETIRED
                                              or OUT_OF_MEMORY

Nothing of this file imports torch or Ray.
"""

import asyncio
import json
import math
import os
import pickle
import resource
import signal
import socket
import sys
import time
import traceback
from dataclasses import replace

from rlvr.config import EnvironmentConfig, VerifierConfig
from rlvr.errors import ConfigError, RunError, VerifierError
from rlvr.task import Outcome, Prompt, Reply, Verdict
from rlvr.verify.base import load
from rlvr.verify.environments.base import reply_to
from rlvr.verify.forkserver import ForkServer, ended
from rlvr.verify.sandbox.inside import keeper, plain
from rlvr.verify.workers.work import Work

# Why there is no verdict. Of a worker that ends itself; another one gets the task:
RETIRED = b'"retired"'  # after `recycle_after` tasks or over the memory mark
OUT_OF_MEMORY = b'"out of memory"'  # in the task at hand
# And of its owner:
OVERRAN = b'"overran"'
DIED = b'"died"'
ENDINGS = (RETIRED, OUT_OF_MEMORY, OVERRAN, DIED)

_START_S = 120.0  # to import the verifiers
_END_S = 30.0  # for a killed worker to be gone
_GRACE_S = 0.05
_MAX_DETAIL = 1000


class Nursery(ForkServer):
    """The process that forks the workers. Its death is the workers' death."""

    def __init__(self, work: Work) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        # Equal hashes make equal orders: of sets, and so of what sympy does.
        environment |= {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", __name__]
        super().__init__(command, env=environment, start_new_session=True)
        self.socket.send(pickle.dumps(work))
        self.socket.setblocking(False)

    async def ready(self) -> None:
        """Wait for its imports. Raises VerifierError with their traceback."""
        try:
            async with asyncio.timeout(_START_S):
                words = await asyncio.get_running_loop().sock_recv(self.socket, 65536)
            failed = json.loads(words)
        except (TimeoutError, OSError, ValueError) as error:
            raise VerifierError(
                f"the verifiers' nursery does not start within {_START_S:.0f} s or died; its own "
                f"words are in the log: {error!r}"
            ) from error
        if failed:
            raise VerifierError(f"cannot load the verifiers:\n{failed}")

    async def hire(self) -> "Worker":
        """A new worker. Raises VerifierError if the nursery is gone."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                leash = self.fork(b"-", [theirs.fileno()])
        except OSError as error:
            ours.close()
            raise VerifierError(f"the verifiers' nursery is gone: {error}") from error
        return Worker(leash, *await asyncio.open_unix_connection(sock=ours))


class Worker:
    """One worker process, which has one task at a time."""

    def __init__(
        self, leash: socket.socket, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        leash.setblocking(False)
        self._leash, self._reader, self._writer = leash, reader, writer
        self.ended = asyncio.ensure_future(asyncio.get_running_loop().sock_recv(leash, 4))

    async def answer(self, task: bytes, limit_s: float) -> bytes:
        """The encoded verdict or reply to a pickled task, or why there is none.

        After anything but these the worker must be ended.
        """
        self._writer.write(plain.framed(task))
        reading = asyncio.ensure_future(self._read())
        try:
            # A busy loop may see the clock before it sees the verdict.
            for limit in (limit_s, _GRACE_S):
                await asyncio.wait({reading}, timeout=limit)
                if reading.done():
                    return reading.result()
            return OVERRAN
        except (asyncio.IncompleteReadError, ConnectionError):
            return DIED
        finally:
            reading.cancel()

    async def end(self) -> int:
        """Kill it and everything it started, if it lives; its wait status."""
        self._leash.shutdown(socket.SHUT_WR)
        try:
            status = await asyncio.wait_for(self.ended, _END_S)
        except (TimeoutError, OSError) as error:
            raise VerifierError(f"a verifier process cannot be ended: {error!r}") from error
        finally:
            self._leash.close()
            self._writer.transport.abort()
        return int.from_bytes(status or b"\x09", "little")  # none: killed with its keeper

    async def _read(self) -> bytes:
        size = int.from_bytes(await self._reader.readexactly(4), "little")
        return await self._reader.readexactly(size)


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
    reward, outcome, detail, seconds, components = json.loads(payload)
    return Verdict(reward, Outcome(outcome), detail, seconds, components)


def encode_reply(reply: Reply) -> bytes:
    """As JSON too. Raises TypeError or ValueError for a state that JSON cannot say."""
    if not math.isfinite(reply.reward):
        raise ValueError(f"the reward {reply.reward}")
    told = reply.observation and reply.observation.encode(errors="replace").decode()
    return json.dumps({"observation": told, "state": reply.state, "reward": reply.reward}).encode()


def decode_reply(payload: bytes, config: EnvironmentConfig) -> Reply:
    """A reply; in the place of one that never came an observation that says so."""
    answer = json.loads(payload)
    if isinstance(answer, dict):
        return Reply(**answer)
    _, outcome, detail, *_ = answer
    if outcome == Outcome.TIMEOUT:
        detail = f"no reply within {config.timeout_s:g} s"
    why = detail.strip().rpartition("\n")[2]
    return Reply(f"[error: {why}]", failure=detail)


def end_verdict(how: bytes, status: int, config: VerifierConfig) -> bytes:
    """The verdict on the task at which a worker ended, encoded; ``status`` is its wait status."""
    detail = f"the verifier's process died of it, twice ({ended(status)})"
    if how == OUT_OF_MEMORY:
        detail = f"out of memory, twice (verifier.memory_mib={config.memory_mib})"
    if how != OVERRAN:
        return encode(Verdict(0.0, Outcome.ERROR, detail))
    detail = f"no verdict within verifier.timeout_s={config.timeout_s:g}"
    return encode(Verdict(0.0, Outcome.TIMEOUT, detail, config.timeout_s))


def _start(work: Work, descriptors: list[int]) -> None:
    status, config = 1, work.verifier
    try:
        leash, tasks = descriptors
        keeper.keep(leash, [tasks])
        with open("/proc/self/statm") as file:
            virtual = int(file.read().split()[0]) * resource.getpagesize()
        allowed = virtual + config.memory_mib * 2**20  # beyond what the nursery has
        resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _work(tasks, work)
        status = 0
    except (EOFError, BrokenPipeError, ConnectionResetError):
        status = 0  # the owner went away
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _work(tasks: int, work: Work) -> None:
    """Answer tasks until told to stop (the end of the stream) or due for renewal."""
    config = work.verifier
    mark = _peak_kib() + config.memory_mib * 1024 // 2
    for _ in range(config.recycle_after):
        task = plain.read(tasks)
        try:
            answer = _answer(task, work)
        except MemoryError:
            plain.write(tasks, OUT_OF_MEMORY)
            return
        plain.write(tasks, answer)
        if _peak_kib() > mark:
            break
    plain.write(tasks, RETIRED)


def _peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _answer(task: bytes, work: Work) -> bytes:
    prompt, text, *state = pickle.loads(task)
    start = time.perf_counter()
    try:
        if state:
            return encode_reply(reply_to(prompt, text, state[0], work.environment, work.verifier))
        verdict = _judged(prompt, text, work.verifier)
    except MemoryError:
        raise
    except Exception:
        verdict = Verdict(0.0, Outcome.ERROR, traceback.format_exc()[-_MAX_DETAIL:])
    return encode(replace(verdict, seconds=time.perf_counter() - start))


def _judged(prompt: Prompt, text: str, config: VerifierConfig) -> Verdict:
    verdict = load(prompt.verifier, config).verify(prompt, text)
    if not isinstance(verdict, Verdict):
        kind = type(verdict).__name__
        raise TypeError(f"verifier '{prompt.verifier}' returned a {kind} instead of a Verdict")
    if not math.isfinite(verdict.reward):
        raise ValueError(f"verifier '{prompt.verifier}' gave the reward {verdict.reward}")
    return verdict


def main() -> None:
    """``python -m rlvr.verify.workers.worker``, with the socket for requests as standard input.

    First comes ``pickle(Work)``. The answer, when all is imported, is why that cannot be used, or
    nothing.
    """
    requests = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the owner decides
    work = pickle.loads(requests.recv(1 << 16))
    failed = ""
    try:
        work.load()
    except (ConfigError, RunError) as error:  # it says what to do, so where does not matter
        failed = str(error)
    except BaseException:
        failed = traceback.format_exc()[-4000:]
    requests.send(json.dumps(failed).encode())
    if not failed:
        keeper.serve(requests, lambda _, descriptors: _start(work, descriptors))


if __name__ == "__main__":
    main()
