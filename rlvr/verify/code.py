"""``code``: the program in the response passes its tests, in a sandbox."""

import re
from functools import lru_cache
from typing import Any

from rlvr.config import CodeConfig, VerifierConfig
from rlvr.task import Prompt, Verdict
from rlvr.verify.base import unparseable
from rlvr.verify.sandbox import server
from rlvr.verify.sandbox.cases import read_tests
from rlvr.verify.sandbox.judge import check, judge

_FENCE = re.compile(r"^[ \t]*(```+|~~~+)[ \t]*([\w+#.-]*)[^\n]*$", re.MULTILINE)


def verify_code(
    program: str,
    tests: Any,
    *,
    entry_point: str | None = None,
    prelude: str = "",
    limits: CodeConfig | None = None,
) -> Verdict:
    """Judge a Python program by its tests; the first that fails decides.

    Args:
        program: source text.
        tests: in any of the forms of ``rlvr.verify.sandbox.cases``.
        entry_point: the function to call; none: a script that reads standard input.
        prelude: code of the task's own that test code may use. Names that neither the tests nor
            the prelude define are taken from the program where there is no ``entry_point``.
        limits: of the sandbox.

    Raises ValueError if the tests are none, SandboxError if the sandbox failed twice.
    """
    limits = limits or CodeConfig()
    cases = read_tests(tests, entry_point)
    return server.retried(limits.sandbox, lambda: judge(program, cases, prelude, limits))


class Code:
    """``verify_code`` as a verifier. Raises ConfigError without a working sandbox."""

    def __init__(self, config: VerifierConfig) -> None:
        check(config.code, "verifier.timeout_s", config.timeout_s)
        self._limits = config.code

    def verify(self, prompt: Prompt, response_text: str) -> Verdict:
        tests = prompt.meta.get("tests") or prompt.meta.get("input_output") or prompt.answer
        entry_point = (prompt.meta.get("entry_point") or "").rpartition(".")[2]  # Solution().f
        prelude = task_code(prompt.text, entry_point) if entry_point else ""
        program = extract_program(response_text, entry_point, prelude)
        if program is None:
            return unparseable("no program: no text, or no closed block of code")
        try:
            return verify_code(
                program, tests, entry_point=entry_point, prelude=prelude, limits=self._limits
            )
        except ValueError as error:
            raise ValueError(f"row {prompt.id}: {error}") from error


def extract_program(text: str, entry_point: str | None = None, prelude: str = "") -> str | None:
    """The program in a response, or None.

    * The last fenced block that defines ``entry_point``, else the last one, if it is Python's or
      nobody's; a block that is never closed is no program.
    * Without any block, the whole text.
    * Without any block, and indented: the body of the function with which ``prelude`` ends.

    ``prelude`` goes in front of the program, with its imports and helpers.
    """
    blocks = _blocks(text)
    if blocks is not None:
        defines = re.compile(rf"\bdef\s+{re.escape(entry_point)}\b") if entry_point else None
        chosen = [b for b in blocks if defines and defines.search(b)] or blocks
        return f"{prelude}\n{chosen[-1]}" if chosen else None
    if prelude and re.match(r"\n?[ \t]+\S", text):
        body = re.split(r"\n(?=\S)", text.lstrip("\n"), maxsplit=1)[0]
        return f"{prelude}{body}\n"
    return f"{prelude}\n{text}" if text.strip() else None


def _blocks(text: str) -> list[str] | None:
    """The closed blocks that may be Python; None if there is no block of any kind."""
    blocks: list[str] = []
    opening = None
    for found in _FENCE.finditer(text):
        if opening is None:
            opening = found
        elif found[1].startswith(opening[1]) and not found[2]:
            if opening[2].lower() in ("", "py", "python", "python3"):
                blocks.append(text[opening.end() + 1 : found.start()])
            opening = None
    return blocks if _FENCE.search(text) else None


@lru_cache(maxsize=1024)
def task_code(text: str, entry_point: str) -> str:
    """The code in a prompt that ends with the head of ``entry_point``; empty if there is none.

    HumanEval's prompts are code, with imports and helper functions that solutions and tests use.
    """
    lines = text.splitlines()
    head = re.compile(rf"def\s+{re.escape(entry_point)}\s*\(")
    code = re.compile(r"(from|import|def|class|@)\s?\w")
    starts = [i for i, line in enumerate(lines) if code.match(line)]
    heads = [i for i, line in enumerate(lines) if head.match(line)]
    if not heads or not starts:
        return ""
    for end in range(heads[-1] + 1, min(len(lines), heads[-1] + 200) + 1):
        source = "\n".join(lines[starts[0] : end]) + "\n"
        try:
            compile(source, "prompt", "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            continue
        return source
    return ""


VERIFIER = Code
