"""An environment that does what the turn says."""

from __future__ import annotations

import os
import time
from typing import Any

from rlvr.task import Prompt, Reply


class Misbehaving:
    def start(self, prompt: Prompt) -> Any:
        assert prompt.token_ids == ()
        return 0

    def step(self, state: Any, text: str) -> Any:
        match text:
            case "count":
                return Reply(str(state + 1), state + 1)
            case "hang":
                time.sleep(1000)
            case "die":
                os._exit(7)
            case "raise":
                raise ValueError("as I was told")
            case "eat":
                return Reply(str(len(bytearray(2**30))))
            case "set":
                return Reply("a", {1, 2})
            case "number":
                return Reply(42)
            case "flood":
                return Reply("a" * 10**7, state)


ENVIRONMENT = Misbehaving
