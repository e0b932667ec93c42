"""DAPO's soft penalty for responses that come close to the length limit (2503.14476)."""

from jaxtyping import Float, Int
from torch import Tensor


def overlong_penalty(
    length: Int[Tensor, "S"], limit: int, buffer: int, factor: float = 1.0
) -> Float[Tensor, "S"]:
    """What is added to the reward of a response of |y_i| = ``length`` tokens.

    0 up to limit − buffer, then linearly down to −factor at the limit and beyond.
    """
    return factor * ((limit - buffer - length) / buffer).clamp(-1.0, 0.0)
