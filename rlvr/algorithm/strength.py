"""How far token coefficients may go from uniform, over the run: c ← 1 + s · (c − 1).

s = 1 leaves a method's coefficients as they are, s = 0 makes them uniform, and a mean of 1 stays 1
in between. A schedule is asked once a step, on the driver: it is a pure function of what a resumed
run has too, so nothing of its own needs to be kept in checkpoints.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from rlvr.registry import Registry, require


@runtime_checkable
class Strength(Protocol):
    """A schedule of s.

    ``always_one`` (optional, default False) says that it never asks for anything but s = 1,
    ``reads_audits`` (optional, default False) that it needs ``evaluation.audit``.
    """

    def __call__(self, step: int, measured: Mapping[str, float]) -> float:
        """s in [0, 1] of a step, counted from 1.

        ``measured`` is what the driver has measured of the run before it, the newest figure of
        each name.
        """


AUDITED = "audit/correlation_low"
"""Lower end of the interval of the correlation, of the method in use, in ``measured``."""

STRENGTHS: Registry[Strength] = Registry("strength", __name__)


@STRENGTHS.register("constant")
@dataclass
class Constant:
    """The same s in every step."""

    value: float = 1.0  # s

    def __post_init__(self) -> None:
        require(0 <= self.value <= 1, f"value must be in [0, 1], not {self.value}")

    @property
    def always_one(self) -> bool:
        return self.value == 1

    def __call__(self, step: int, measured: Mapping[str, float]) -> float:
        return self.value


@STRENGTHS.register("linear")
@dataclass
class Linear:
    """From ``first`` in step 1 in a line to ``last`` in step ``steps``, where it stays."""

    steps: int = 100
    first: float = 0.0
    last: float = 1.0

    def __post_init__(self) -> None:
        require(self.steps >= 2, f"steps must be at least 2, not {self.steps}")
        for key in ("first", "last"):
            value = getattr(self, key)
            require(0 <= value <= 1, f"{key} must be in [0, 1], not {value}")

    def __call__(self, step: int, measured: Mapping[str, float]) -> float:
        passed = min(1.0, max(0.0, (step - 1) / (self.steps - 1)))
        return (1.0 - passed) * self.first + passed * self.last


@STRENGTHS.register("audited")
@dataclass
class Audited:
    """As far as the run's audits vouch for the method: s is the lower end of the 95 % interval of
    its correlation with effects, as the newest audit has it (``evaluation.audit``), and 0 below 0.
    """

    first: float = 0.0  # s before there is one

    reads_audits = True

    def __post_init__(self) -> None:
        require(0 <= self.first <= 1, f"first must be in [0, 1], not {self.first}")

    def __call__(self, step: int, measured: Mapping[str, float]) -> float:
        return min(1.0, max(0.0, measured.get(AUDITED, self.first)))


def drawn(coefficients: Float[Tensor, "N"], strength: float) -> Float[Tensor, "N"]:
    """1 + s (c − 1); at s = 1 the same tensor."""
    return coefficients if strength == 1 else 1 + strength * (coefficients - 1)
