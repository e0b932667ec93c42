"""Advantages: one number per response, from the rewards of its group.

Every function takes the rewards of a whole rollout batch and arbitrary integer group ids.
A group whose rewards are all equal carries no learning signal and gets exactly 0.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlvr.algorithm.aggregation import segment_max, segment_mean, segment_min, segment_sum
from rlvr.registry import Registry, require

Rewards = Float[Tensor, "S"]
GroupIds = Int[Tensor, "S"]


@runtime_checkable
class Advantage(Protocol):
    """Turns the rewards of a rollout batch into advantages.

    ``needs_group`` (optional, default True) says whether a group of one response has none.
    """

    def __call__(self, reward: Rewards, group_id: GroupIds) -> Rewards:
        """A_i of every response, in the dtype of ``reward``."""
        ...


ADVANTAGES: Registry[Advantage] = Registry("advantage", __name__)


def grpo_advantages(reward: Rewards, group_id: GroupIds, *, eps: float = 1e-6) -> Rewards:
    """(R_i − mean R) / (std R + eps) over the group, sample deviation (GRPO, 2402.03300)."""
    centred, group, count = _centred(reward, group_id)
    freedom = (torch.bincount(group, minlength=count) - 1).clamp(min=1)
    std = (segment_sum(centred**2, group, count) / freedom).sqrt()
    return (centred / (std[group] + eps)).to(reward.dtype)


def dr_grpo_advantages(reward: Rewards, group_id: GroupIds) -> Rewards:
    """R_i − mean R over the group (Dr.GRPO, 2503.20783)."""
    return _centred(reward, group_id)[0].to(reward.dtype)


def rloo_advantages(reward: Rewards, group_id: GroupIds) -> Rewards:
    """R_i − mean R of the *other* responses of the group (RLOO); 0 for a response alone."""
    centred, group, count = _centred(reward, group_id)
    size = torch.bincount(group, minlength=count).double()
    # R_i − (ΣR − R_i)/(G−1) = (R_i − mean R) · G/(G−1), which keeps equal rewards at exactly 0.
    return (centred * (size / (size - 1).clamp(min=1))[group]).to(reward.dtype)


def reinforce_pp_advantages(reward: Rewards, group_id: GroupIds, *, eps: float = 1e-6) -> Rewards:
    """R_i − mean R over the group, divided by its deviation over the batch (REINFORCE++).

    The baseline form: subtracting the group's mean leaves the batch's mean at 0, so whitening
    is the division alone.
    """
    centred, _, _ = _centred(reward, group_id)
    std = (centred.square().sum() / max(len(centred) - 1, 1)).sqrt()
    return (centred / (std + eps)).to(reward.dtype)


def _centred(reward: Rewards, group_id: GroupIds) -> tuple[Rewards, GroupIds, int]:
    """R_i − mean R in float64, and the groups renumbered to 0..count−1, and count.

    Exactly 0 where rounding would leave a residue of the mean.
    """
    ids, group = torch.unique(group_id, return_inverse=True)
    reward, count = reward.double(), len(ids)
    centred = reward - segment_mean(reward, group, count)[group]
    spread = segment_max(reward, group, count) != segment_min(reward, group, count)
    return torch.where(spread[group], centred, 0.0), group, count


@ADVANTAGES.register("grpo")
@dataclass
class Grpo:
    """See grpo_advantages."""

    eps: float = 1e-6  # added to the group's standard deviation

    def __post_init__(self) -> None:
        require(self.eps > 0, f"eps must be positive, not {self.eps}")

    def __call__(self, reward: Rewards, group_id: GroupIds) -> Rewards:
        return grpo_advantages(reward, group_id, eps=self.eps)


@ADVANTAGES.register("dr_grpo")
@dataclass
class DrGrpo:
    """See dr_grpo_advantages."""

    def __call__(self, reward: Rewards, group_id: GroupIds) -> Rewards:
        return dr_grpo_advantages(reward, group_id)


@ADVANTAGES.register("rloo")
@dataclass
class Rloo:
    """See rloo_advantages."""

    def __call__(self, reward: Rewards, group_id: GroupIds) -> Rewards:
        return rloo_advantages(reward, group_id)


@ADVANTAGES.register("reinforce_pp")
@dataclass
class ReinforcePp:
    """See reinforce_pp_advantages."""

    needs_group = False
    eps: float = 1e-6  # added to the batch's standard deviation

    def __post_init__(self) -> None:
        require(self.eps > 0, f"eps must be positive, not {self.eps}")

    def __call__(self, reward: Rewards, group_id: GroupIds) -> Rewards:
        return reinforce_pp_advantages(reward, group_id, eps=self.eps)
