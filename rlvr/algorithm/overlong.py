"""DAPO's soft penalty for responses that come close to the length limit (2503.14476)."""

from jaxtyping import Float, Int
from torch import Tensor


def overlong_penalty(
    length: Int[Tensor, "S"], limit: int, buffer: int, factor: float = 1.0
) -> Float[Tensor, "S"]:
    """What is added to the reward: 0 up to limit − buffer, then linearly down to −factor.

    Args:
        length: |y_i| of each response.
        limit: L_max, the longest response that is sampled.
        buffer: B > 0, the tokens over which the penalty grows.
        factor: size of the penalty at and beyond the limit.
    """
    return factor * ((limit - buffer - length) / buffer).clamp(-1.0, 0.0)
