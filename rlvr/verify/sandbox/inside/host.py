"""The process in which a program under test runs.

It says ``["started"]``, reads ``{program, call, filter}`` from its input, and says ``["ready"]``,
``["unparseable", why]`` or, where functions of the program are to be called and it is run for that,
``["failed", why]``. Then it takes

* the input of one run of a script after the other, and answers ``[wait status, processor
  seconds]``, its output and the end of its stderr, these three as bytes; each run is a fork that
  starts from the same clean state; or
* calls ``[name, arguments, keyword arguments]``, and answers ``["returned", value]``, ``["raised",
  type, text]`` or ``["missing"]``.

It keeps no secret from the program: it knows no expected output. A program that takes this process
over can answer what it likes, and gains nothing by it.
"""

import builtins
import os
import sys
import warnings
from types import CodeType
from typing import Any

from rlvr.verify.sandbox.inside import confine, keeper, plain

_STDERR = 2000  # characters of it that are kept


def main(limits: dict[str, Any]) -> None:
    plain.send(1, ["started"])
    job = plain.receive(0)
    try:
        confine.limit(limits, 2**40)  # a compiler can be bombed, too
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they would go to the fork server's stderr, for ever
            code = compile(job["program"], "solution.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        plain.send(1, ["unparseable", f"{type(error).__name__}: {error}"])
        return
    # What an interactive start would have added; programs use them.
    vars(builtins)["exit"] = vars(builtins)["quit"] = sys.exit
    sys.argv = ["solution.py"]
    (_serve_calls if job["call"] else _serve_runs)(code, job["filter"], limits)


def _serve_runs(code: CodeType, allowed: bytes, limits: dict[str, Any]) -> None:
    state = confine.mount_tmp(limits)
    plain.send(1, ["ready"])
    while True:
        try:
            text = plain.read(0)
        except EOFError:
            return
        if confine.tmp_state(limits) != state:  # left by the run before
            state = confine.mount_tmp(limits)
        files = [os.memfd_create(name) for name in ("stdin", "stdout", "stderr")]
        os.write(files[0], text)
        os.lseek(files[0], 0, os.SEEK_SET)
        pid = keeper.fork(0)
        if pid == 0:
            for descriptor, file in enumerate(files):
                os.dup2(file, descriptor)
            confine.close_from(3)
            _enter(allowed, limits)
            module = sys.modules["__main__"] = type(sys)("__main__")
            # The interpreter's own end follows: traceback, exit status, threads, flushing.
            exec(code, vars(module))
            return
        _, status, used = os.wait4(pid, 0)
        stdout = os.pread(files[1], limits["output"], 0)
        size = os.fstat(files[2]).st_size
        stderr = os.pread(files[2], _STDERR, max(0, size - _STDERR))
        for file in files:
            os.close(file)
        plain.send(1, [status, used.ru_utime + used.ru_stime])
        plain.write(1, stdout)
        plain.write(1, stderr)


def _serve_calls(code: CodeType, allowed: bytes, limits: dict[str, Any]) -> None:
    requests, answers = os.dup(0), os.dup(1)
    confine.silence()
    confine.mount_tmp(limits)
    _enter(allowed, limits)
    namespace: dict[str, Any] = {"__name__": "solution"}
    try:
        exec(code, namespace)
    except BaseException as error:
        plain.send(answers, ["failed", _words(error)])
        return
    plain.send(answers, ["ready"])
    while True:
        try:
            name, arguments, keywords = plain.receive(requests)
        except EOFError:
            return
        function = _find(namespace, name)
        if function is None:
            plain.send(answers, ["missing"])
            continue
        try:
            answer = plain.encode(["returned", function(*arguments, **keywords)])
        except BaseException as error:
            answer = plain.encode(["raised", type(error).__name__, _words(error)])
        plain.write(answers, answer)


def _find(namespace: dict[str, Any], name: str) -> Any:
    """The function, or the method of a fresh ``Solution`` as some collections of tasks want it."""
    found = namespace.get(name)
    if found is None and isinstance(solution := namespace.get("Solution"), type):
        found = getattr(solution(), name, None)
    return found if callable(found) else None


def _enter(allowed: bytes, limits: dict[str, Any]) -> None:
    """Become the program: its standard streams, its limits, its system calls."""
    confine.drop_capabilities(limits)
    for name, descriptor, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        errors = "surrogateescape" if mode == "r" else "backslashreplace"
        stream = open(descriptor, mode, encoding="utf-8", errors=errors, closefd=False)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    confine.limit(limits, limits["output"])
    confine.forbid(allowed)


def _words(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:500]
    except BaseException:  # an exception of the program's own, with a __str__ of its own
        return type(error).__name__
