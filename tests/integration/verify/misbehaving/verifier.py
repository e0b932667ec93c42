"""A verifier that does what the response tells it."""

import os
import signal
import subprocess
import time
from typing import Any

from rlvr.task import Outcome, Prompt, Verdict
from rlvr.verify.base import judged


class Misbehaving:
    """Obeys the first word of a response."""

    def verify(self, prompt: Prompt, response_text: str) -> Any:
        """Do it."""
        command, _, argument = response_text.partition(" ")
        match command:
            case "sleep":
                time.sleep(float(argument))
            case "spin":
                while 9**99999:
                    pass
            case "ignore-signals":
                signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
                while True:
                    time.sleep(1)
            case "die":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "exit":
                os._exit(0)
            case "eat":
                hoard = []
                while True:
                    hoard.append(bytearray(2**24))
            case "grow":
                self.hoard = bytearray(int(argument) * 2**20)
            case "spawn":
                subprocess.Popen(["sleep", argument])
                time.sleep(1000)
            case "raise":
                raise ValueError(argument)
            case "nonsense":
                return "correct"
            case "nan":
                return Verdict(float("nan"), Outcome.CORRECT)
            case "pid":
                return judged(True, str(os.getpid()))
            case "tokens":
                return judged(len(prompt.token_ids) == 0)
        return judged(response_text == prompt.answer, response_text)


VERIFIER = Misbehaving
