"""Advantages: one number per response, from the rewards of its group.

Every function takes the rewards of a whole rollout batch and arbitrary integer group ids.
A group whose rewards are all equal carries no learning signal and gets exactly 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlvr.algorithm.aggregation import segment_max, segment_mean, segment_min, segment_sum
from rlvr.algorithm.registry import Registry, require


@runtime_checkable
class Advantage(Protocol):
    """Turns the rewards of a rollout batch into advantages."""

    def __call__(
        self, reward: Float[Tensor, "S"], group_id: Int[Tensor, "S"]
    ) -> Float[Tensor, "S"]:
        """A_i of every response, in the dtype of ``reward``."""
        ...


ADVANTAGES: Registry[Advantage] = Registry("advantage", __name__)


def grpo_advantages(
    reward: Float[Tensor, "S"], group_id: Int[Tensor, "S"], *, eps: float = 1e-6
) -> Float[Tensor, "S"]:
    """(R_i − mean R) / (std R + eps) over the group, sample deviation (GRPO, 2402.03300)."""
    group, count = _groups(group_id)
    centred = _centred(reward, group, count)
    freedom = (torch.bincount(group, minlength=count) - 1).clamp(min=1)
    std = (segment_sum(centred**2, group, count) / freedom).sqrt()
    return (centred / (std[group] + eps)).to(reward.dtype)


def dr_grpo_advantages(
    reward: Float[Tensor, "S"], group_id: Int[Tensor, "S"]
) -> Float[Tensor, "S"]:
    """R_i − mean R over the group (Dr.GRPO, 2503.20783)."""
    return _centred(reward, *_groups(group_id)).to(reward.dtype)


def rloo_advantages(reward: Float[Tensor, "S"], group_id: Int[Tensor, "S"]) -> Float[Tensor, "S"]:
    """R_i − mean R of the *other* responses of the group (RLOO); 0 for a response alone."""
    group, count = _groups(group_id)
    size = torch.bincount(group, minlength=count).double()
    # R_i − (ΣR − R_i)/(G−1) = (R_i − mean R) · G/(G−1), which keeps equal rewards at exactly 0.
    return (_centred(reward, group, count) * (size / (size - 1).clamp(min=1))[group]).to(
        reward.dtype
    )


def reinforce_pp_advantages(
    reward: Float[Tensor, "S"], group_id: Int[Tensor, "S"], *, eps: float = 1e-6
) -> Float[Tensor, "S"]:
    """R_i − mean R over the group, divided by its deviation over the batch (REINFORCE++).

    The baseline form: subtracting the group's mean leaves the batch's mean at 0, so whitening
    is the division alone.
    """
    centred = _centred(reward, *_groups(group_id))
    std = (centred.square().sum() / max(len(centred) - 1, 1)).sqrt()
    return (centred / (std + eps)).to(reward.dtype)


def _groups(group_id: Int[Tensor, "S"]) -> tuple[Int[Tensor, "S"], int]:
    """Group ids renumbered to 0..count-1, and count."""
    ids, group = torch.unique(group_id, return_inverse=True)
    return group, len(ids)


def _centred(reward: Float[Tensor, "S"], group: Int[Tensor, "S"], count: int) -> Float[Tensor, "S"]:
    """R_i − mean R in float64; exactly 0 where rounding would leave a residue of the mean."""
    reward = reward.double()
    centred = reward - segment_mean(reward, group, count)[group]
    spread = segment_max(reward, group, count) != segment_min(reward, group, count)
    return torch.where(spread[group], centred, 0.0)


@dataclass
class GrpoConfig:
    """Options of ``advantage=grpo``."""

    name: str = "grpo"
    eps: float = 1e-6  # added to the group's standard deviation

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.eps > 0, f"eps must be positive, not {self.eps}")


@ADVANTAGES.register("grpo", GrpoConfig)
class Grpo:
    """See grpo_advantages."""

    def __init__(self, config: GrpoConfig) -> None:
        self.eps = config.eps

    def __call__(
        self, reward: Float[Tensor, "S"], group_id: Int[Tensor, "S"]
    ) -> Float[Tensor, "S"]:
        """A_i of every response."""
        return grpo_advantages(reward, group_id, eps=self.eps)


@dataclass
class DrGrpoConfig:
    """``advantage=dr_grpo`` has no options."""

    name: str = "dr_grpo"


@ADVANTAGES.register("dr_grpo", DrGrpoConfig)
class DrGrpo:
    """See dr_grpo_advantages."""

    def __init__(self, config: DrGrpoConfig) -> None:
        del config

    def __call__(
        self, reward: Float[Tensor, "S"], group_id: Int[Tensor, "S"]
    ) -> Float[Tensor, "S"]:
        """A_i of every response."""
        return dr_grpo_advantages(reward, group_id)


@dataclass
class RlooConfig:
    """``advantage=rloo`` has no options."""

    name: str = "rloo"


@ADVANTAGES.register("rloo", RlooConfig)
class Rloo:
    """See rloo_advantages."""

    def __init__(self, config: RlooConfig) -> None:
        del config

    def __call__(
        self, reward: Float[Tensor, "S"], group_id: Int[Tensor, "S"]
    ) -> Float[Tensor, "S"]:
        """A_i of every response."""
        return rloo_advantages(reward, group_id)


@dataclass
class ReinforcePpConfig:
    """Options of ``advantage=reinforce_pp``."""

    name: str = "reinforce_pp"
    eps: float = 1e-6  # added to the batch's standard deviation

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.eps > 0, f"eps must be positive, not {self.eps}")


@ADVANTAGES.register("reinforce_pp", ReinforcePpConfig)
class ReinforcePp:
    """See reinforce_pp_advantages."""

    def __init__(self, config: ReinforcePpConfig) -> None:
        self.eps = config.eps

    def __call__(
        self, reward: Float[Tensor, "S"], group_id: Int[Tensor, "S"]
    ) -> Float[Tensor, "S"]:
        """A_i of every response."""
        return reinforce_pp_advantages(reward, group_id, eps=self.eps)
