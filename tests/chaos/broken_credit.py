"""A third-party credit method that raises on the learner."""

from __future__ import annotations

from dataclasses import dataclass

from rlvr.algorithm.credit import CREDITS, Needs


@dataclass
class BrokenConfig:
    name: str = "broken"


@CREDITS.register("broken", BrokenConfig)
class Broken:
    needs = Needs.NONE

    def __init__(self, config: BrokenConfig) -> None:
        pass

    def assign(self, batch, features, ranks):
        raise RuntimeError("the credit method of this test is broken")
