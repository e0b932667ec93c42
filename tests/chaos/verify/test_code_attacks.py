"""Programs that attack their verifier: each gets the verdict it deserves and leaves nothing."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from attacks import FORGED, NEVER_ENDING, WASTEFUL

from rlvr.config import CodeConfig
from rlvr.task import Outcome
from rlvr.verify.code import verify_code
from rlvr.verify.sandbox import server
from rlvr.verify.sandbox.sandbox import Sandbox
from rlvr.verify.sandbox.server import SandboxServer

LIMITS = CodeConfig(wall_s=2.5, cpu_s=1, memory_mib=256, output_mib=1, disk_mib=4)
RIGHT = "def double(x):\n    return 2 * x\n"
CHECK = """
def check(candidate):
    assert candidate(SECRET) == ANSWER
    assert candidate(0) == 0
    assert candidate([1]) == [1, 1]
"""


@pytest.fixture(scope="module", autouse=True)
def fork_server() -> Iterator[SandboxServer]:
    """One fork server for all attacks, which none of them may harm; it leaves no process."""
    mark = f"mark-{os.getpid()}-{random.getrandbits(64):x}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(server._ENVIRONMENT, "MARK", mark)
        server.end("bubblewrap")
        assert doubles("def double(x): return 2 * x", "calls") is Outcome.CORRECT
        started = server.running("bubblewrap")
        yield started
        assert server.running("bubblewrap") is started
        server.end("bubblewrap")
    wait_until(lambda: not marked(mark))


@pytest.fixture(autouse=True)
def nothing_is_left(fork_server: SandboxServer) -> Iterator[None]:
    """No process and no file survives a verdict by more than a moment."""
    files = set(os.listdir("/tmp")) | set(os.listdir("/dev/shm"))
    mark = server._ENVIRONMENT["MARK"]
    wait_until(lambda: len(marked(mark)) == SERVER)
    before = marked(mark)
    yield
    wait_until(lambda: marked(mark) == before)
    new = (set(os.listdir("/tmp")) | set(os.listdir("/dev/shm"))) - files
    assert not [name for name in new if name.startswith(("rlvr-unsafe", "left"))]


SERVER = 3  # processes: bubblewrap outside, bubblewrap inside, the fork server


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def marked(mark: str) -> list[str]:
    """The processes that were started with this mark in their environment."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if mark.encode() in Path(f"/proc/{pid}/environ").read_bytes():
                found.append(pid)
        except OSError:
            pass
    return found


def test_the_search_for_what_is_left_can_find_it() -> None:
    limits = replace(LIMITS, wall_s=60.0)
    with Sandbox("host", limits, time.monotonic() + 60.0) as box:
        assert box.receive() == ["started"]
        assert len(marked(server._ENVIRONMENT["MARK"])) == SERVER + 2  # keeper and program


def doubles(program: str, style: str) -> Outcome:
    """The outcome of a program that should double its input, in each style of tests."""
    secret = random.randrange(10**6)
    tests: object
    if style == "script":
        tests = {"inputs": [f"{secret}\n", "0\n"], "outputs": [f"{2 * secret}\n", "0\n"]}
        return verify_code(program, tests, limits=LIMITS).outcome
    tests = {"inputs": [[secret], [0]], "outputs": [2 * secret, 0]}
    if style == "check":
        tests = CHECK.replace("SECRET", str(secret)).replace("ANSWER", str(2 * secret))
    return verify_code(program, tests, entry_point="double", limits=LIMITS).outcome


STYLES = ["script", "calls", "check"]


@pytest.mark.parametrize("style", STYLES)
def test_the_right_program_is_right(style: str) -> None:
    program = RIGHT + "if __name__ == '__main__':\n    print(double(int(input())))\n"
    assert doubles(program, style) is Outcome.CORRECT
    assert doubles(program.replace("2 *", "3 *"), style) is Outcome.INCORRECT


@pytest.mark.parametrize("attack", NEVER_ENDING)
def test_what_never_ends_is_a_timeout(attack: str) -> None:
    style = random.choice(STYLES)
    start = time.monotonic()
    assert doubles(NEVER_ENDING[attack], style) is Outcome.TIMEOUT, style
    assert time.monotonic() - start < LIMITS.wall_s + 1


@pytest.mark.parametrize("attack", WASTEFUL)
def test_waste_is_bounded(attack: str) -> None:
    style = random.choice(STYLES)
    outcome = doubles(WASTEFUL[attack], style)
    # Where the machine is slow, the bomb may meet the time limit first.
    assert outcome in (Outcome.INCORRECT, Outcome.UNPARSEABLE, Outcome.TIMEOUT), style


def test_gigabytes_of_output_are_cut() -> None:
    start = time.monotonic()
    loud = "import os\nwhile True: os.write(1, bytes(2**16))"
    assert doubles(loud, "script") is Outcome.INCORRECT
    assert doubles(RIGHT + "import sys\nwhile sys.stdout.write('x' * 2**16): pass", "calls") in (
        Outcome.INCORRECT,
        Outcome.TIMEOUT,
    )
    assert doubles("def double(x): return 'x' * 2**22", "calls") is Outcome.INCORRECT
    assert doubles("def double(x): return 'x' * 2**22", "check") is Outcome.INCORRECT
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("attack", FORGED)
def test_forgery_earns_nothing(attack: str) -> None:
    for style in STYLES:
        outcome = doubles(FORGED[attack], style)
        assert outcome in (Outcome.INCORRECT, Outcome.UNPARSEABLE) or (
            outcome is Outcome.TIMEOUT and "parent" in attack
        ), style


def probe(expression: str, **tests: object) -> str:
    """What ``expression`` is, seen from inside."""
    program = f"def look():\n    try:\n        return repr({expression})\n"
    program += "    except BaseException as e:\n        return type(e).__name__\n"
    wanted = {"inputs": [[]], "outputs": ["???"]}
    detail = verify_code(program, wanted, entry_point="look", limits=LIMITS).detail
    return detail.removeprefix("test 1 of 1: ").removesuffix(" is not '???'").strip("\"'")


def test_the_outside_is_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    secret = tmp_path / "expected"
    secret.write_text("42")
    here = os.getpid()
    assert probe(f"open('{secret}').read()") == "FileNotFoundError"
    assert probe(f"open('{Path(__file__)}').read()") == "FileNotFoundError"
    assert probe("open('/etc/passwd').read()") == "FileNotFoundError"
    assert probe(f"open('/proc/{here}/environ').read()") == "FileNotFoundError"
    assert probe("open('/proc/1/mem').read()") == "FileNotFoundError"
    assert probe(f"__import__('os').kill({here}, 0)") == "ProcessLookupError"
    assert probe(f"__import__('os').sched_getparam({here})") == "ProcessLookupError"
    environment = probe("sorted(__import__('os').environ)")
    assert "SECRET" not in environment and "HOME" in environment
    assert probe("__import__('os').getuid()") == "65534"
    assert probe("__import__('os').getppid()") == "0"
    capabilities = (
        "(lambda c, b: [c.CDLL(None).capget(b'\\x22\\x05\\x08\\x20' + bytes(4), b), *b.raw])"
        "(*(lambda c: (c, c.create_string_buffer(b'x' * 23)))(__import__('ctypes')))"
    )
    assert probe(capabilities) == f"{[0] * 25}"
    assert probe("open('/x', 'w')") == "OSError"
    assert probe("__import__('os').listdir('/tmp')") == "[]"
    for folder in ("/app/rlvr/verify/sandbox/inside", "/usr/lib"):
        assert probe(f"open('{folder}/x', 'w')") in ("OSError", "PermissionError")
    for call in ("unshare", "ptrace", "mount"):
        numbers = {"unshare": 272, "ptrace": 101, "mount": 165}
        if os.uname().machine == "x86_64":
            libc = "__import__('ctypes').CDLL(None).syscall"
            assert probe(f"{libc}({numbers[call]}, 0, 0, 0, 0, 0)") == "-1"


def test_there_is_no_network() -> None:
    connected = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(1.5)

        def accept() -> None:
            try:
                connected.append(server.accept())
            except TimeoutError:
                pass

        listening = threading.Thread(target=accept)
        listening.start()
        port = server.getsockname()[1]
        connect = f"__import__('socket').create_connection(('127.0.0.1', {port}), 1)"
        assert probe(connect) == "OSError"  # the network is unreachable, the loopback included
        assert probe("__import__('socket').create_connection(('1.1.1.1', 53), 1)") == "OSError"
        listening.join()
    assert not connected


def test_a_child_left_behind_is_impossible() -> None:
    daemon = (
        "import os\nif os.fork() == 0:\n    os.setsid()\n    import time\n    time.sleep(1000)\n"
    )
    assert doubles(daemon + "print(2 * int(input()))", "script") is Outcome.INCORRECT
    thread = (
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n"
    )
    assert doubles(thread + "print(2 * int(input()))", "script") is Outcome.CORRECT


def test_one_run_leaves_nothing_for_the_next() -> None:
    program = (
        "import os\ncount = int(open('/tmp/left').read()) if os.path.exists('/tmp/left') else 0\n"
        "import math\nassert not hasattr(math, 'mark')\nmath.mark = 1\n"
        "print(2 * int(input()))\n"
    )
    assert doubles(program, "script") is Outcome.CORRECT


def test_a_program_has_its_three_descriptors_and_no_more() -> None:
    program = (
        "import os\ninput()\nfound = []\nfor d in range(1024):\n"
        "    try: os.fstat(d)\n    except OSError: continue\n    found.append(d)\nprint(found)"
    )
    tests = {"inputs": ["1"], "outputs": ["[0, 1, 2]"]}
    assert verify_code(program, tests, limits=LIMITS).outcome is Outcome.CORRECT
    # Where it is called: standard streams that lead nowhere, and the pipes of its calls.
    program = "import os\ndef is_open(d):\n    try: os.fstat(d)\n    except OSError: return False\n"
    program += "    return True\ndef look(): return [d for d in range(1024) if is_open(d)]\n"
    tests = {"inputs": [[]], "outputs": [[0, 1, 2, 3, 4]], "fn_name": "look"}
    verdict = verify_code(program, tests, limits=LIMITS)
    assert verdict.outcome is Outcome.CORRECT, verdict.detail


def test_programs_at_the_same_time_do_not_meet() -> None:
    """Two of one fork server: neither files, nor processes, nor memory, nor sockets in common."""
    meeting = (
        "import os, socket, time\n"
        "me, other = {me!r}, {other!r}\n"
        "open('/tmp/' + me, 'w').close()\n"
        "server = socket.socket(socket.AF_UNIX)\n"
        "server.bind('\\0' + me)\n"
        "server.listen()\n"
        "time.sleep(1)\n"
        "met = [name for name in os.listdir('/tmp') if name != me]\n"
        "try: socket.socket(socket.AF_UNIX).connect('\\0' + other); met.append('socket')\n"
        "except ConnectionRefusedError: pass\n"
        "for pid in range(1, 100):\n"
        "    try: os.sched_getparam(pid); met.append(pid)\n"
        "    except ProcessLookupError: pass\n"
        "print(met)\n"
    )
    tests = {"inputs": [""], "outputs": ["[1, 2]"]}  # its host and itself
    given: list[object] = []

    def run(me: str, other: str) -> None:
        verdict = verify_code(meeting.format(me=me, other=other), tests, limits=LIMITS)
        given.append((verdict.outcome, verdict.detail))

    threads = [threading.Thread(target=run, args=pair) for pair in (("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert given == [(Outcome.CORRECT, "1 tests")] * 2
