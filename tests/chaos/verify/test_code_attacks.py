"""Programs that attack their verifier: each gets the verdict it deserves and leaves nothing."""

import os
import random
import socket
import sysconfig
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
        held = [os.open("/dev/null", os.O_RDONLY) for _ in range(100)]  # as a large driver does
        assert doubles("def double(x): return 2 * x", "calls") is Outcome.CORRECT
        started = server.running("bubblewrap")
        for descriptor in held:
            os.close(descriptor)
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
    with Sandbox("host", limits) as box:
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
    assert time.monotonic() - start < LIMITS.wall_s + 5


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
        "try: socket.socket(socket.AF_UNIX); met = ['socket']\n"
        "except OSError: met = []\n"
        "time.sleep(1)\n"
        "met += [name for name in os.listdir('/tmp') if name != me]\n"
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


LIBC = "__import__('ctypes').CDLL(None)"
THREADS = """
import ctypes
def double(x):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.malloc.restype = ctypes.c_void_p  # never freed: a thread may begin after the return
    top, flags = libc.malloc(1 << 22) + 4096, 0x50F00  # CLONE_VM, _FS, _FILES, _SIGHAND, _THREAD
    waiting = ctypes.cast(libc.pause, ctypes.c_void_p)
    for count in range(5000):
        place = ctypes.c_void_p(top + count % 1000 * 4096 & ~15)
        if libc.clone(waiting, place, flags, None) < 0:
            return count
    return "no end"
"""


def test_threads_are_bounded_whoever_starts_them() -> None:
    tests = {"inputs": [[1]], "outputs": ["???"], "fn_name": "double"}
    for _ in range(2):  # nor does one program leave less room for the next
        verdict = verify_code(THREADS, tests, limits=replace(LIMITS, wall_s=10.0))
        count = verdict.detail.removeprefix("test 1 of 1: ").removesuffix(" is not '???'")
        assert 100 < int(count) < 300, verdict.detail


def test_the_device_nodes_stay_as_they_are() -> None:
    for name in ("null", "zero", "urandom"):
        before = os.stat(f"/dev/{name}")
        for change in ("chmod('/dev/{}', 0)", "chown('/dev/{}', 1, 1)", "utime('/dev/{}')"):
            assert "Error" in probe("__import__('os')." + change.format(name))
        after = os.stat(f"/dev/{name}")
        assert (before.st_mode, before.st_uid) == (after.st_mode, after.st_uid)
    assert probe("open('/dev/null', 'w').write('x')") == "1"


def test_tmp_holds_so_many_files_and_no_more() -> None:
    links = "[__import__('os').symlink('x' * 60, f'/tmp/{i}') for i in range(5000)]"
    assert probe(links) == "OSError"


CLOSED = {
    "a lease": "__import__('fcntl').fcntl(open('/usr/lib/os-release'), 1024, 0)",
    "a lock": "__import__('fcntl').flock(open(__import__('os').__file__), 2)",
    "a lock of a range": "__import__('fcntl').lockf(open(__import__('os').__file__), 1)",
    "a watch": f"1 / ({LIBC}.inotify_init() + 1)",
    "a watch of a file system": f"1 / ({LIBC}.fanotify_init(0, 0) + 1)",
    "another program": "__import__('os').execv('/bin/true', ['true'])",
    "a session": "__import__('os').setsid()",
    "a group": "__import__('os').setpgid(0, 0)",
    "sync": "__import__('os').sync() or 1 / 0",
    "syncfs": f"1 / ({LIBC}.syncfs(0) + 1)",
    "a namespace": f"1 / ({LIBC}.unshare(0x10000000) + 1)",
    "another's namespace": f"1 / ({LIBC}.setns(0, 0) + 1)",
    "a mount": f"1 / ({LIBC}.mount(None, b'/tmp', b'tmpfs', 0, None) + 1)",
    "ptrace": f"1 / ({LIBC}.ptrace(0, 0, 0, 0) + 1)",
    "an anonymous file": "__import__('os').memfd_create('x')",
}


@pytest.mark.parametrize("way", CLOSED)
def test_what_is_not_on_the_list_is_refused(way: str) -> None:
    assert probe(CLOSED[way]) in ("OSError", "PermissionError", "ZeroDivisionError")


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86-64")
def test_calls_without_a_name_in_the_c_library_are_refused() -> None:
    numbers = {"io_setup": 206, "perf_event_open": 298, "userfaultfd": 323, "keyctl": 250}
    numbers |= {"bpf": 321, "io_uring_setup": 425, "add_key": 248, "pidfd_open": 434, "clone3": 435}
    numbers |= {"shmget": 29, "mq_open": 240, "vfork": 58, "x32 getpid": 0x40000000 + 39}
    errors = (
        f"[(__import__('ctypes').set_errno(0), c.syscall(n, 0, 0, 0, 0, 0), "
        f"__import__('ctypes').get_errno())[1:] for n in {list(numbers.values())[:-1]}]"
    )
    given = probe(f"(lambda c: {errors})(__import__('ctypes').CDLL(None, use_errno=True))")
    assert given == repr([(-1, 38)] * (len(numbers) - 1))


def test_every_family_of_sockets_is_closed() -> None:
    program = (
        "import socket\ndef look():\n    opened = []\n    for family in range(64):\n"
        "        for kind in (1, 2, 3, 5):\n"
        "            try: socket.socket(family, kind); opened.append(family)\n"
        "            except OSError: pass\n    return opened\n"
    )
    tests = {"inputs": [[]], "outputs": [[]], "fn_name": "look"}
    verdict = verify_code(program, tests, limits=LIMITS)
    assert verdict.outcome is Outcome.CORRECT, verdict.detail


def test_what_programs_need_is_on_the_list() -> None:
    program = (
        "import asyncio, graphlib, shutil, sqlite3, tempfile, threading\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "async def later(): await asyncio.sleep(0.001); return 1\n"
        "def look():\n"
        "    threading.stack_size(2**25)\n"
        "    with ThreadPoolExecutor(4) as pool: found = [sum(pool.map(abs, [1, -1]))]\n"
        "    found.append(asyncio.run(later()))\n"
        "    found += sqlite3.connect(':memory:').execute('select 7').fetchone()\n"
        "    with tempfile.TemporaryDirectory() as folder:\n"
        "        open(folder + '/a', 'w').write('x')\n"
        "        shutil.copy2(folder + '/a', folder + '/b')\n"
        "        found.append(open(folder + '/b').read())\n"
        "    return found\n"
    )
    tests = {"inputs": [[]], "outputs": [[2, 1, 7, "x"]], "fn_name": "look"}
    verdict = verify_code(program, tests, limits=replace(LIMITS, wall_s=10.0))
    assert verdict.outcome is Outcome.CORRECT, verdict.detail


def test_installed_packages_are_not_there() -> None:
    for folder in Path("/usr/lib").glob("python*/*-packages"):
        assert probe(f"__import__('os').listdir('{folder}')") == "[]"
    packages = f"{sysconfig.get_config_var('installed_base')}/lib/python3.11/site-packages"
    if os.path.isdir(packages):
        assert probe(f"__import__('os').listdir('{packages}')") == "[]"
        assert probe(f"open('{packages}/x', 'w')") in ("OSError", "PermissionError")


COSTLY = {
    "integers that collide": "def double(x): return {i * (2**61 - 1) for i in range(60_000)}",
    "millions of empty texts": "def double(x): return [''] * 340_000",
    "a great number": "def double(x): return 10**5000",
    "a great number as a key": "def double(x): return {10**5000: [10**5000]}",
    "a great number for a decimal": "def double(x): return 10**400",
}


@pytest.mark.parametrize("attack", COSTLY)
def test_reading_and_comparing_are_bound_as_the_program_is(attack: str) -> None:
    start = time.monotonic()
    for expected in ([1, 2], {"1": 2}, 1.5):
        tests = {"inputs": [[1]], "outputs": [expected], "fn_name": "double"}
        outcome = verify_code(COSTLY[attack], tests, limits=LIMITS).outcome
        assert outcome in (Outcome.INCORRECT, Outcome.TIMEOUT)
        assert outcome is Outcome.INCORRECT or "great" not in attack
    assert time.monotonic() - start < 3 * (LIMITS.wall_s + 1)


def test_a_large_output_is_compared_in_a_sandbox() -> None:
    wide = replace(LIMITS, wall_s=10.0)
    lines = {"inputs": [""], "outputs": ["7\n" * 100_000]}
    assert verify_code("print('7\\n' * 100_000)", lines, limits=wide).outcome is Outcome.CORRECT
    other = verify_code("print('7\\n' * 99_999, 8)", lines, limits=wide)
    assert other.outcome is Outcome.INCORRECT and "is not" in other.detail
    blank = verify_code("print('\\n' * 1_000_000)", lines, limits=LIMITS)
    assert blank.outcome in (Outcome.INCORRECT, Outcome.TIMEOUT)
    call = {"inputs": [[]], "outputs": [list(range(100_000))], "fn_name": "f"}
    given = verify_code("def f(): return list(range(100_000))", call, limits=wide)
    assert given.outcome is Outcome.CORRECT


def test_warnings_of_the_compiler_are_not_kept(fork_server: SandboxServer) -> None:
    before = os.fstat(fork_server._stderr).st_size
    assert doubles("x = 1\n" + "x is 1\n" * 5000 + RIGHT, "calls") is Outcome.CORRECT
    assert os.fstat(fork_server._stderr).st_size == before


def test_each_run_finds_an_empty_tmp() -> None:
    program = (
        "import os\nassert os.listdir('/tmp') == [] == os.listdir('.')\n"
        "assert os.stat('/tmp').st_mode & 0o777 == 0o755\nos.chmod('/tmp', 0o500)\n"
        "os.chmod('/tmp', 0o755)\nopen('/tmp/left', 'w').write('1')\nos.chmod('/tmp', 0)\n"
        "print(2 * int(input()))\n"
    )
    assert doubles(program, "script") is Outcome.CORRECT


def test_each_run_finds_an_empty_tmp_however_little_was_left() -> None:
    tests = {"inputs": ["a", "b", "c", "d"], "outputs": ["[] 0o755"] * 4}
    program = (
        "import os\nname, mode = input(), oct(os.stat('.').st_mode & 0o777)\n"
        "print(os.listdir('.'), mode)\nif name == 'a': os.mkdir('left')\n"
        "if name == 'b': os.symlink('x', 'left')\nif name == 'c': os.chmod('.', 0o700)\n"
    )
    verdict = verify_code(program, tests, limits=LIMITS)
    assert verdict.outcome is Outcome.CORRECT, verdict.detail


def test_unsafe_too_leaves_no_process() -> None:
    limits = replace(LIMITS, sandbox="unsafe", wall_s=1.0)
    mark = f"mark-{random.getrandbits(64):x}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(server._ENVIRONMENT, "MARK", mark)
        escape = "import os, time\ntry: os.setsid()\nexcept OSError: pass\ntime.sleep(1000)"
        verdict = verify_code(escape, {"inputs": [""], "outputs": [""]}, limits=limits)
        assert verdict.outcome is Outcome.TIMEOUT
        server.end("unsafe")
        wait_until(lambda: not marked(mark))
