"""Programs in the real sandbox."""

import os
import random
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rlvr.config import CodeConfig, VerifierConfig
from rlvr.errors import ConfigError, SandboxError
from rlvr.task import Outcome, Prompt
from rlvr.verify.base import load
from rlvr.verify.code import verify_code
from rlvr.verify.sandbox import server
from rlvr.verify.sandbox.inside import plain

LIMITS = CodeConfig(wall_s=30.0, cpu_s=2, memory_mib=256, output_mib=1)


def test_scripts(seed: int) -> None:
    dice = random.Random(seed)
    numbers = [dice.sample(range(100), 5) for _ in range(6)]
    tests = {
        "inputs": [" ".join(map(str, n)) for n in numbers],
        "outputs": ["\n".join(map(str, sorted(n))) for n in numbers],
    }
    for reading in ("input()", "sys.stdin.readline()", "open(0).read()", "sys.stdin.read()"):
        program = f"import sys\nprint(*sorted(map(int, {reading}.split())), sep='\\n')"
        assert verify_code(program, tests, limits=LIMITS).outcome is Outcome.CORRECT
    flushed = "import os\nprint(*sorted(map(int, input().split())), sep='\\n', flush=True)\n"
    assert verify_code(flushed + "os._exit(0)", tests).outcome is Outcome.CORRECT
    assert verify_code(flushed + "exit()", tests).outcome is Outcome.CORRECT
    assert verify_code(flushed + "1 / 0", tests).outcome is Outcome.INCORRECT
    wrong = verify_code("print(*sorted(input().split()), sep='\\n')\nprint(1)", tests)
    assert wrong.outcome is Outcome.INCORRECT and "test 1 of 6" in wrong.detail


def test_what_the_detail_says() -> None:
    tests = {"inputs": [""], "outputs": ["1"]}
    assert "ZeroDivisionError" in verify_code("1 / 0", tests).detail
    assert "exit status 3" in verify_code("exit(3)", tests).detail
    assert "'2\\n' is not '1'" in verify_code("print(2)", tests).detail
    broken = verify_code("print(", tests)
    assert broken.outcome is Outcome.UNPARSEABLE and "SyntaxError" in broken.detail
    slow = verify_code("while True: pass", tests, limits=replace(LIMITS, cpu_s=1, wall_s=60.0))
    assert slow.outcome is Outcome.TIMEOUT and "cpu_s=1" in slow.detail
    slow = verify_code("import time; time.sleep(9)", tests, limits=replace(LIMITS, wall_s=0.5))
    assert slow.outcome is Outcome.TIMEOUT and "wall_s=0.5" in slow.detail


def begins_late(command):
    """``server.python``, but what it starts does ``command`` before it serves."""
    python = server.python
    return lambda path: [*python(path)[:-1], f"{command}; {python(path)[-1]}"]


def test_the_servers_start_is_not_the_programs_time(monkeypatch) -> None:
    server.end("bubblewrap")
    monkeypatch.setattr(server, "python", begins_late("import time; time.sleep(1.5)"))
    tests = {"inputs": ["1"], "outputs": ["1"]}
    program = "while True: pass"
    slow = verify_code(program, tests, limits=replace(LIMITS, wall_s=1.0))
    assert slow.outcome is Outcome.TIMEOUT and "wall_s=1" in slow.detail
    server.end("bubblewrap")
    right = verify_code("print(input())", tests, limits=replace(LIMITS, wall_s=1.0))
    assert right.outcome is Outcome.CORRECT, right.detail


def test_a_server_that_does_not_start_says_why(monkeypatch) -> None:
    server.end("bubblewrap")
    monkeypatch.setattr(server, "python", begins_late("import no_such_module"))
    with pytest.raises(SandboxError, match="does not start: .*(?s:.)*no_such_module"):
        verify_code("print(1)", {"inputs": [""], "outputs": ["1"]}, limits=LIMITS)
    server.end("bubblewrap")


def test_functions() -> None:
    tests = {"inputs": [[[3, 1, 2]], [[]]], "outputs": [[1, 2, 3], []], "fn_name": "order"}
    for program in (
        "def order(x): return sorted(x)",
        "def order(x): return tuple(sorted(x))",
        "order = sorted",
        "class Solution:\n    def order(self, x): return sorted(x)",
    ):
        assert verify_code(program, tests).outcome is Outcome.CORRECT, program
    for program in (
        "def order(x): return x",
        "def order(): return []",
        "def sort(x): return sorted(x)",
        "1 / 0\ndef order(x): return sorted(x)",
        "def order(x): print(sorted(x))",
    ):
        assert verify_code(program, tests).outcome is Outcome.INCORRECT, program
    assert "NameError" in verify_code("def order(x): return y", tests).detail


def test_asserts() -> None:
    program = "def half(x):\n    if x % 2: raise ValueError(x)\n    return x // 2\n"
    check = "def check(candidate):\n    for i in range(9):\n        assert candidate(2 * i) == i\n"
    assert verify_code(program, check, entry_point="half").outcome is Outcome.CORRECT
    called = check + "check(half)\n"
    assert verify_code(program, called, entry_point="half").outcome is Outcome.CORRECT
    asserts = ["assert half(4) == 2", "assert half(0) == 0"]
    assert verify_code(program, asserts).outcome is Outcome.CORRECT
    raising = "def test_odd():\n    try:\n        half(3)\n    except ValueError:\n        return\n"
    raising += "    assert False\n"
    assert verify_code(program, raising).outcome is Outcome.CORRECT
    assert verify_code(program.replace("raise", "return"), raising).outcome is Outcome.INCORRECT
    wrong = verify_code("def half(x): return x", check, entry_point="half")
    assert wrong.outcome is Outcome.INCORRECT and "AssertionError" in wrong.detail
    missing = verify_code("def other(x): return x", check, entry_point="half")
    assert missing.outcome is Outcome.INCORRECT and "no function half" in missing.detail


def test_a_helper_of_the_task_is_not_the_programs_to_change() -> None:
    prelude = "def poly(xs, x):\n    return sum(c * x**i for i, c in enumerate(xs))\n"
    check = "def check(candidate):\n    assert abs(poly([1, 2], candidate([1, 2]))) < 1e-6\n"
    forged = "def poly(xs, x): return 0\ndef zero(xs): return 7\n"
    honest = "def zero(xs): return -xs[0] / xs[1]\n"
    for program, expected in ((forged, Outcome.INCORRECT), (honest, Outcome.CORRECT)):
        verdict = verify_code(program, check, entry_point="zero", prelude=prelude)
        assert verdict.outcome is expected


@pytest.mark.parametrize(
    "tests", ["def check(c: pass", "def check(c): import no_such_module", "x = 1", ""]
)
def test_broken_tests_are_nobodys_failure(tests: str) -> None:
    with pytest.raises(ValueError, match="tests are broken"):
        verify_code("def f(): pass", tests, entry_point="f")


TWICE = "def twice(x): return 2 * x\n"
EXITING = "import os\ndef twice(x): os._exit(0)\n"


@pytest.mark.parametrize(
    "check",
    [
        "assert all(map(candidate, [1, 2]))",
        "for given, wanted in zip(map(candidate, [1, 2]), [2, 4]):\n        assert given == wanted",
        "assert list(map(candidate, [1, 2])) in ([2, 4], [])",
        "try: assert candidate(1) == 2\n    except: pass",
        "try: assert candidate(1) == 2\n    except BaseException: pass\n    assert True",
    ],
)
def test_a_program_that_ends_or_stops_passes_nothing(check: str) -> None:
    tests = f"def check(candidate):\n    {check}\n"
    assert verify_code(TWICE, tests, entry_point="twice").outcome is Outcome.CORRECT
    stopping = "def twice(x): raise StopIteration"
    for program in [EXITING] + [stopping] * ("try" not in check):
        verdict = verify_code(program, tests, entry_point="twice")
        assert verdict.outcome is Outcome.INCORRECT, verdict


def test_only_without_an_entry_point_are_other_names_the_programs() -> None:
    program = TWICE + "def close(a, b): return True\n"
    tests = ["assert close(twice(1), 3)"]
    assert verify_code(program, tests).outcome is Outcome.CORRECT
    with pytest.raises(ValueError, match="tests are broken: NameError: name 'close'"):
        verify_code(program, tests, entry_point="twice")
    unknown = verify_code("def twice(x): return y", ["assert twice(1)"], entry_point="twice")
    assert unknown.outcome is Outcome.INCORRECT


CASES = """
import unittest
class TestTwice(unittest.TestCase):
    def setUp(self):
        self.wanted = 4
    def test_two(self):
        self.assertEqual(twice(2), self.wanted)
    def test_three(self):
        with self.assertRaises(TypeError):
            twice(None)
"""


@pytest.mark.parametrize(
    "end",
    ["", "unittest.main()", "if __name__ == '__main__': unittest.main()", "assert twice(0) == 0"],
)
@pytest.mark.parametrize("entry_point", [None, "twice"])
def test_classes_of_unittest_are_run(end: str, entry_point: str | None) -> None:
    tests = CASES + end
    for program, outcome in (
        (TWICE, Outcome.CORRECT),
        ("def twice(x): return (x + x) * (x != 2)", Outcome.INCORRECT),
        ("def twice(x): return 2 * (x or 0)", Outcome.INCORRECT),
        (EXITING, Outcome.INCORRECT),
    ):
        verdict = verify_code(program, tests, entry_point=entry_point)
        assert verdict.outcome is outcome, (program, verdict)


@pytest.mark.parametrize(
    "tests",
    [
        "twice(1)",
        "def check(candidate):\n    candidate(1)\n",
        "class TestTwice:\n    def test(self): assert twice(1) == 3\ntwice(0)",
        "def check(c):\n    c(1)\n    return\n    assert c(1) == 3\n",
        "import sys\nsys.exit(1)",
    ],
)
def test_tests_that_check_nothing_are_an_error_of_their_row(tests: str) -> None:
    code = load("code", VerifierConfig())
    meta = {"tests": tests, "entry_point": "twice"}
    with pytest.raises(ValueError, match="row mbpp/7: the tests are broken: "):
        code.verify(Prompt("mbpp/7", (), "", "-", "code", meta=meta), TWICE)


def test_tests_may_check_without_an_assert() -> None:
    tests = "def check(candidate):\n    if candidate(2) != 4: raise ValueError\n"
    assert verify_code(TWICE, tests, entry_point="twice").outcome is Outcome.CORRECT
    wrong = verify_code("def twice(x): return x", tests, entry_point="twice")
    assert wrong.outcome is Outcome.INCORRECT


def test_a_function_with_the_name_of_a_builtin_one() -> None:
    tests = ["assert sum(10, 15) == 6", "assert sum(100, 150) == 93"]
    program = "def sum(a, b): return 1 + 2 + 3 if a == 10 else 93\n"
    for entry_point in (None, "sum"):
        assert verify_code(program, tests, entry_point=entry_point).reward == 1
        wrong = verify_code("def sum(a, b): return 6", tests, entry_point=entry_point)
        assert wrong.outcome is Outcome.INCORRECT
    # Where the program's function is known by its name, the built-in ones are the tests' own.
    forged = "def similar(a): return 7\ndef set(x): return 0\n"
    assert verify_code(forged, ["assert set(similar((1, 2))) == set((2,))"]).reward == 0


def test_methods_of_a_solution() -> None:
    program = "class Solution:\n    def twice(self, x): return 2 * x\n"
    tests = ["assert Solution().twice(1) == 2", "s = Solution()\nassert s.twice(x=2) == 4"]
    assert verify_code(program, tests).outcome is Outcome.CORRECT
    assert verify_code(program.replace("2 *", "3 *"), tests).outcome is Outcome.INCORRECT
    code = load("code", VerifierConfig())
    check = "def check(candidate):\n    assert candidate(x=2) == 4\n"
    meta = {"tests": check, "entry_point": "Solution().twice"}
    prompt = Prompt("p", (), "", "-", "code", meta=meta)
    assert code.verify(prompt, f"```python\n{program}```").outcome is Outcome.CORRECT


def test_limits_of_size() -> None:
    tests = {"inputs": [""], "outputs": ["x" * 10**6]}
    assert verify_code("print('x' * 10**6)", tests, limits=LIMITS).outcome is Outcome.CORRECT
    small = replace(LIMITS, disk_mib=1)
    writing = "for name in 'ab': open('/tmp/' + name, 'wb').write(bytes({}))\nprint('x' * 10**6)"
    fits = verify_code(writing.format(400_000), tests, limits=small)
    assert fits.outcome is Outcome.CORRECT
    full = verify_code(writing.format(600_000), tests, limits=small)
    assert full.outcome is Outcome.INCORRECT and "No space left" in full.detail
    large = {"inputs": ["7" * 10**6], "outputs": [str(7 * 10**6)]}
    program = "print(sum(map(int, input())))"
    assert verify_code(program, large, limits=LIMITS).outcome is Outcome.CORRECT


def test_sets_come_in_the_same_order_every_time() -> None:
    tests = {"inputs": [""], "outputs": ["?"]}
    program = "print(*{str(i) for i in range(50)})"
    assert len({verify_code(program, tests).detail for _ in range(3)}) == 1


def test_the_verifier_reads_the_row() -> None:
    code = load("code", VerifierConfig())
    head = 'def twice(x):\n    """Twice x."""\n'
    prompt = Prompt(
        "p", (), f"<user>\n{head}<assistant>\n", "assert False", "code",
        meta={"tests": "def check(c):\n    assert c(2) == 4\n", "entry_point": "twice"},
    )  # fmt: skip
    for text in ("    return 2 * x\n", "```python\ndef twice(x):\n    return x + x\n```"):
        assert code.verify(prompt, text).outcome is Outcome.CORRECT
    assert code.verify(prompt, "I cannot.").outcome is Outcome.UNPARSEABLE
    assert code.verify(prompt, "```python\ndef twice(x):").outcome is Outcome.UNPARSEABLE
    assert code.verify(prompt, "    return x\n").outcome is Outcome.INCORRECT


class Killing(threading.Thread):
    """Kills the fork server, or the keeper of a program, when a program runs; so many times."""

    def __init__(self, victim: str, times: int) -> None:
        super().__init__(daemon=True)
        self.victim, self.times, self.killed = victim, times, set[int]()

    def run(self) -> None:
        while len(self.killed) < self.times:
            for running in list(server._servers.values()):
                root = running.process.pid
                processes = descendants(root)  # init, server, keeper, host, program
                if len(processes) == 5 and root not in self.killed:
                    self.killed.add(root)
                    os.kill(processes[1 if self.victim == "server" else 2], signal.SIGKILL)
            time.sleep(0.02)


def descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = list(map(int, task.read_text().split()))
        except OSError:
            continue
        for child in children:
            found += [child, *descendants(child)]
    return found


@pytest.mark.parametrize("victim", ["server", "keeper"])
def test_a_sandbox_that_is_lost_is_tried_once_more(victim: str) -> None:
    server.end("bubblewrap")
    tests = {"inputs": ["3"], "outputs": ["6"]}
    program = "import time\nn = int(input())\ntime.sleep(2)\nprint(2 * n)"
    for times, outcome in ((1, Outcome.CORRECT), (2, None)):
        killing = Killing(victim, times)
        killing.start()
        if outcome is not None:
            assert verify_code(program, tests, limits=LIMITS).outcome is outcome
        else:
            with pytest.raises(SandboxError, match="the sandbox was ended"):
                verify_code(program, tests, limits=LIMITS)
        killing.join()
        assert len(killing.killed) == times
        assert verify_code(program, tests, limits=LIMITS).outcome is Outcome.CORRECT
        server.end("bubblewrap")
        assert not [pid for pid in killing.killed if os.path.exists(f"/proc/{pid}")]


def test_a_verdict_is_never_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    fork = server.SandboxServer.fork
    monkeypatch.setattr(
        server.SandboxServer,
        "fork",
        lambda *a: (started.append(plain.decode(a[1])["program"]), fork(*a))[1],
    )
    tests = {"inputs": [""], "outputs": ["1"]}
    killed = "import os\nos.kill(os.getpid(), 9)"
    for program in ("print(2)", "print(", killed, "import os\nos.kill(1, 9)", "while True: pass"):
        started.clear()
        limits = replace(LIMITS, cpu_s=1)
        assert verify_code(program, tests, limits=limits).outcome is not Outcome.ERROR
        assert started == ["host"], program


def test_unsafe_does_the_same_without_a_sandbox() -> None:
    limits = replace(LIMITS, sandbox="unsafe")
    tests = {"inputs": [""], "outputs": [str(os.getuid())]}
    assert verify_code("import os\nprint(os.getuid())", tests, limits=limits).reward == 1
    check = "def check(c):\n    assert c(2) == 4\n"
    program = "def f(x): return 2 * x"
    assert verify_code(program, check, entry_point="f", limits=limits).reward == 1
    assert verify_code("1 / 0", tests, limits=limits).outcome is Outcome.INCORRECT


def test_the_sandbox_must_end_before_the_verifier_does() -> None:
    with pytest.raises(ConfigError, match="wall_s=8 must be less than verifier.timeout_s=5"):
        load("code", VerifierConfig(timeout_s=5.0))
