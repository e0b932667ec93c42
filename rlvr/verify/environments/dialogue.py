"""``dialogue``: says the lines of the row's ``replies``, one after each turn, then it is over.

A line may be an object ``{"say": text, "if": pattern, "reward": number}``: it is said, and its
reward given, if the regular expression is found in the turn; else the conversation is over.
"""

import re
from collections.abc import Mapping
from typing import Any

from rlvr.task import Prompt, Reply


class Dialogue:
    """A script, for tests and examples."""

    def start(self, prompt: Prompt) -> Any:
        lines = prompt.meta.get("replies")
        if not isinstance(lines, list):
            raise ValueError(f"row {prompt.id}: 'replies' must be a list of lines")
        return lines

    def step(self, state: Any, text: str) -> Reply:
        if not state:
            return Reply(None)
        line, *rest = state
        if isinstance(line, Mapping):
            if "if" in line and not re.search(line["if"], text):
                return Reply(None)
            return Reply(line["say"], rest, line.get("reward", 0.0))
        return Reply(line, rest)


ENVIRONMENT = Dialogue
