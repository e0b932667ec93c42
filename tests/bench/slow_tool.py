"""A tool that takes its time, for ``turns.py``."""

from __future__ import annotations

import random
import time
from typing import Any

from rlvr.task import Prompt, Reply

SLOWEST_S = 2.0


class Tool:
    """Says something after a while, as often as the prompt asks for."""

    def start(self, prompt: Prompt) -> Any:
        return int(prompt.answer)

    def step(self, state: Any, text: str) -> Reply:
        time.sleep(random.Random(text).uniform(0, SLOWEST_S))
        return Reply("7 7 7" if state > 1 else None, state - 1)


ENVIRONMENT = Tool
