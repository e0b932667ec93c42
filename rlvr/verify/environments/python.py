"""``python``: runs the program that a turn asks for in the sandbox, and says what it printed.

Names live on from call to call: the programs of earlier turns that ended well run again before the
new one, with what they print left out. So a conversation's next turn can go to any process of any
machine, at the price of repeated work; what they draw from ``random`` is drawn the same again. The
value of the last line is printed, as in a notebook. The limits are those of ``verifier.code``, for
all of it. A turn that asks for nothing ends the conversation.
"""

import json
from typing import Any

from rlvr.config import EnvironmentConfig, VerifierConfig
from rlvr.task import Prompt, Reply
from rlvr.verify.environments.calls import code_call, tool
from rlvr.verify.sandbox.judge import check
from rlvr.verify.sandbox.script import run_script

TOOLS = [
    tool(
        "code_interpreter",
        "Runs Python and returns what it prints. Names live on from call to call.",
        "code",
        "The program.",
    )
]

# Runs in the sandbox, with the cells as the program's input.
_NOTEBOOK = """
import ast, contextlib, io, json, random, sys, traceback

*before, last = json.loads(sys.stdin.read())
sys.stdin = io.StringIO()
space = {"__name__": "__main__"}
random.seed(0)
for cell in before:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        exec(compile(cell, "cell", "exec"), space)
try:
    tree = ast.parse(last, "cell")
    value = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), space)
    if value is not None:
        shown = eval(compile(ast.Expression(value.value), "cell", "eval"), space)
        if shown is not None:
            print(repr(shown))
except BaseException as error:
    if not isinstance(error, SystemExit) or error.code:
        own = traceback.extract_tb(error.__traceback__)
        lines = [f"line {f.lineno}" for f in own if f.filename == "cell"]
        words = "".join(traceback.format_exception_only(error)).rstrip()
        print(f"{lines[-1]}: {words}" if lines else words)
        sys.exit(1)
"""


class Python:
    """Raises ConfigError without a working sandbox."""

    def __init__(self, config: EnvironmentConfig, verifier: VerifierConfig) -> None:
        check(verifier.code, "environment.timeout_s", config.timeout_s)
        self._limits = verifier.code

    def start(self, prompt: Prompt) -> Any:
        return []

    def step(self, state: Any, text: str) -> Reply:
        call = code_call(text)
        if call is None:
            return Reply(None)
        if call.wrong:
            return Reply(call.wrong, state)
        cells = [*state, call.argument]
        ran = run_script(_NOTEBOOK, json.dumps(cells), self._limits)
        said = ran.stdout.rstrip() or ran.problem or "(no output)"
        return Reply(said, cells if ran.ended_well else state)


ENVIRONMENT = Python
