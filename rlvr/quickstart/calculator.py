"""An environment of one tool: ``<12+345>`` in a turn is a sum, and the reply is its value.

A turn without such a call ends the conversation. It shows what an environment is made of:
``data.environment=rlvr.quickstart.calculator``.
"""

import re
from typing import Any

from rlvr.task import Prompt, Reply

_CALL = re.compile(r"<([0-9]{1,9}(?:\+[0-9]{1,9})*)>")


class Calculator:
    """Has nothing to remember from turn to turn."""

    def start(self, prompt: Prompt) -> Any:
        return 0

    def step(self, state: Any, text: str) -> Reply:
        calls = _CALL.findall(text)
        if not calls:
            return Reply(None)
        return Reply(str(sum(map(int, calls[-1].split("+")))), state)


ENVIRONMENT = Calculator
