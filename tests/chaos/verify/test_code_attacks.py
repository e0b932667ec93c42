"""Programs that attack their verifier: each gets the verdict it deserves and leaves nothing."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rlvr.config import CodeConfig
from rlvr.task import Outcome
from rlvr.verify import sandbox
from rlvr.verify.code import verify_code
from rlvr.verify.inside import host

LIMITS = CodeConfig(wall_s=2.5, cpu_s=1, memory_mib=256, output_mib=1, disk_mib=4)
RIGHT = "def double(x):\n    return 2 * x\n"
CHECK = """
def check(candidate):
    assert candidate(SECRET) == ANSWER
    assert candidate(0) == 0
    assert candidate([1]) == [1, 1]
"""


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No process and no file survives a verdict by more than a moment."""
    files = set(os.listdir("/tmp")) | set(os.listdir("/dev/shm"))
    mark = f"mark-{os.getpid()}-{random.getrandbits(64):x}"
    monkeypatch.setitem(sandbox._ENVIRONMENT, "MARK", mark)
    yield
    deadline = time.monotonic() + 5
    while left := marked(mark):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)
    new = (set(os.listdir("/tmp")) | set(os.listdir("/dev/shm"))) - files
    assert not [name for name in new if name.startswith(("rlvr-unsafe", "left"))]


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
    with sandbox.Sandbox(host, limits, time.monotonic() + 60.0) as box:
        assert box.receive() == ["started"]
        assert len(marked(sandbox._ENVIRONMENT["MARK"])) >= 2


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


NEVER_ENDING = {
    "an infinite loop": "while True: pass",
    "sleep": "import time\ntime.sleep(1000)",
    "a signal handler against the limit": (
        "import signal\nfor s in range(1, 32):\n"
        "    try: signal.signal(s, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\nwhile True: pass"
    ),
    "a pattern that explodes": "import re\nre.match(r'(a+)+$', 'a' * 50 + 'b')",
    "a power tower": "9**9**9",
    "threads that wait": (
        "import threading\nthreading.Thread(target=threading.Event().wait).start()\n"
        "threading.Event().wait()"
    ),
}


@pytest.mark.parametrize("attack", NEVER_ENDING)
def test_what_never_ends_is_a_timeout(attack: str) -> None:
    style = random.choice(STYLES)
    start = time.monotonic()
    assert doubles(NEVER_ENDING[attack], style) is Outcome.TIMEOUT, style
    assert time.monotonic() - start < LIMITS.wall_s + 1


WASTEFUL = {
    "a fork bomb": "import os\nwhile True: os.fork()",
    "a fork bomb that does not give up": (
        "import os\nfor _ in range(1000):\n    try: os.fork()\n    except OSError: pass\n"
        "raise SystemExit(1)"
    ),
    "a bomb of threads": (
        "import threading\nthreading.stack_size(32768)\n"
        "while True: threading.Thread(target=threading.Event().wait, daemon=True).start()"
    ),
    "a shell": "import os\nassert os.system('true') == 0",
    "a subprocess": "import subprocess\nsubprocess.run(['/bin/sh', '-c', 'sleep 1000'])",
    "a memory bomb": "hoard = []\nwhile True: hoard.append(bytearray(2**24))",
    "one great allocation": "bytearray(2**40)",
    "anonymous files": "import os\nwhile True: os.memfd_create('x')",
    "deep recursion": "def f(): f()\nf()",
    "deep recursion without a limit": (
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return [f(x) for _ in x]\nf([1])"
    ),
    "a deeply nested source": "x = " + "(" * 5000 + ")" * 5000,
    "a constant that is expensive to fold": "x = " + "-" * 100_000 + "1",
    "writing gigabytes": (
        "for i in range(10**9):\n    with open(f'/tmp/left{i}', 'wb') as f: f.write(bytes(2**20))"
    ),
    "one file of gigabytes": "f = open('/tmp/left', 'wb')\nwhile True: f.write(bytes(2**20))",
}


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


FORGED = {
    "os._exit(0)": "import os\nos._exit(0)",
    "sys.exit(0)": "import sys\nsys.exit(0)",
    "os._exit(0) when called": "import os\ndef double(x): os._exit(0)",
    "sys.exit(0) when called": "import sys\ndef double(x): sys.exit(0)",
    "end of the interpreter": "import atexit, os\natexit.register(os._exit, 0)",
    "printed results": "print('passed'); print('[\"passed\"]'); print('OK')\nraise SystemExit(0)",
    "a result on every descriptor": (
        "import os\nfor d in range(64):\n"
        "    for m in (b'l1:s6:passed', b'l2:s8:returnedT', b'l1:s5:ready'):\n"
        "        try: os.write(d, len(m).to_bytes(4, 'little') + m)\n"
        "        except OSError: pass\n"
    ),
    "an object equal to everything": (
        "class Yes(int):\n    def __eq__(self, other): return True\n    __hash__ = None\n"
        "    def __ne__(self, other): return False\n    def __rsub__(self, other): return 0\n"
        "def double(x): return Yes(1)"
    ),
    "a bare object equal to everything": (
        "class Yes:\n    def __eq__(self, other): return True\n    def __repr__(self): return '0'\n"
        "def double(x): return Yes()"
    ),
    "a list equal to everything": (
        "class Yes(list):\n    def __eq__(self, other): return True\ndef double(x): return Yes()"
    ),
    "builtins replaced": (
        "import builtins\n"
        "for name in ('print', 'open', 'all', 'len', 'isinstance', 'repr', 'AssertionError'):\n"
        "    setattr(builtins, name, lambda *a, **k: True)\n"
        "def double(x): return True"
    ),
    "AssertionError is no exception any more": (
        "import builtins\nclass Quiet(Exception):\n    def __new__(cls, *a): raise SystemExit(0)\n"
        "builtins.AssertionError = Quiet\ndef double(x): raise Quiet"
    ),
    "unittest replaced": (
        "import unittest, sys\nunittest.TestCase.assertEqual = lambda *a: None\n"
        "unittest.TestCase.run = lambda *a: None\ndef double(x): return None"
    ),
    "the host's own functions replaced": (
        "import sys\n"
        "plain = sys.modules['rlvr.verify.inside.plain']\n"
        "plain.encode = lambda value: b'l1:s6:passed'\n"
        "def double(x): return None"
    ),
    "a look at the caller": (
        "import sys\ndef double(x):\n    frame = sys._getframe()\n    while frame:\n"
        "        for value in [*frame.f_locals.values(), *frame.f_globals.values()]:\n"
        "            if isinstance(value, dict) and 'tests' in value: return value\n"
        "        frame = frame.f_back"
    ),
    "a trace function": (
        "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\n"
        "def double(x): return None"
    ),
    "NUL in the source": "x = 1\0\n",
    "half a surrogate pair": "print('\ud800')",
    "the other direction": "# \u202e\nprint('\u202e\ufeff\0' * 100)",
    "no text": "",
    "a cycle": "def double(x):\n    a = []\n    a.append(a)\n    return a",
    "depth": "def double(x):\n    a = []\n    for _ in range(10**5): a = [a]\n    return a",
    "not a number": "def double(x): return float('nan')",
    "no function": "double = 3",
    "itself": "def double(x): return double",
    "a generator": "def double(x):\n    while True: yield x",
    "an exception with a will of its own": (
        "class Cross(Exception):\n    def __str__(self): raise SystemExit(0)\n"
        "def double(x): raise Cross"
    ),
    "the exception that means a broken test": "def double(x): raise ImportError('numpy')",
    "killing its parent": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
    "killing everybody": "import os, signal\nos.kill(-1, signal.SIGKILL)",
    "stopping its parent": (
        "import os, signal\n"
        "try: os.kill(os.getppid(), signal.SIGSTOP)\nfinally: os.kill(os.getpid(), signal.SIGKILL)"
    ),
    "closed descriptors": "import os\nos.closerange(0, 64)",
    "a crash": "import ctypes\nctypes.string_at(0)",
}


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
    assert probe("open('/x', 'w')") == "OSError"
    assert probe("__import__('os').listdir('/tmp')") == "[]"
    for folder in ("/app/rlvr/verify/inside", "/usr/lib"):
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
        assert probe(connect) == "ConnectionRefusedError"
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
