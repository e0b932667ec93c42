"""An advantage and a logits processor that fail when they are ordered to, by a file.

They come to the run as anybody's own would: by their names in its configuration.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor

from rlvr.algorithm.advantages import ADVANTAGES, Grpo

ORDERS = "RLVR_SOAK_ORDERS"  # the folder of the files
NOT_FINITE = "not_finite"


def raising(pid: int) -> str:
    return f"raise_{pid}"


def _ordered(name: str) -> bool:
    file = Path(os.environ[ORDERS], name)
    if not file.exists():
        return False
    file.unlink()
    return True


@ADVANTAGES.register("soak")
@dataclass
class SoakAdvantage(Grpo):
    """That of GRPO; once for every order the first response's is no number."""

    def __call__(self, reward, group_id):
        advantage = super().__call__(reward, group_id)
        if _ordered(NOT_FINITE):
            advantage[0] = torch.nan
        return advantage


class Raises(LogitsProcessor):
    """Changes nothing, and raises in the middle of the engine's step once it is ordered to."""

    def __init__(self, vllm_config, device, is_pin_memory) -> None:
        pass

    def is_argmax_invariant(self) -> bool:
        return True

    def apply(self, logits):
        return logits

    def update_state(self, batch_update) -> None:
        if _ordered(raising(os.getpid())):
            raise ArithmeticError("ordered by the soak")
