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

    ``needs_group`` (optional, default True) says whether a group of one response has none,
    ``left_to_credit`` (optional, default False) that it makes no difference between responses.
    """

    def __call__(self, reward: Rewards, group_id: GroupIds) -> Rewards:
        """A_i of every response, in the dtype of ``reward``."""


ADVANTAGES: Registry[Advantage] = Registry("advantage", __name__)


def _centred(reward: Rewards, group_id: GroupIds) -> tuple[Rewards, GroupIds, Int[Tensor, "G"]]:
    """R_i − mean R in float64, the groups renumbered from 0, and the size of each.

    Exactly 0 where rounding would leave a residue of the mean.
    """
    ids, group, size = torch.unique(group_id, return_inverse=True, return_counts=True)
    reward, count = reward.double(), len(ids)
    centred = reward - segment_mean(reward, group, count)[group]
    spread = segment_max(reward, group, count) != segment_min(reward, group, count)
    return torch.where(spread[group], centred, 0.0), group, size


@dataclass
class _Divided:
    """Advantages divided by a deviation."""

    eps: float = 1e-6  # added to the deviation

    def __post_init__(self) -> None:
        require(self.eps > 0, f"eps must be positive, not {self.eps}")


@ADVANTAGES.register("grpo")
@dataclass
class Grpo(_Divided):
    """(R_i − mean R) / (std R + eps) over the group, sample deviation (GRPO, 2402.03300)."""

    def __call__(self, reward: Rewards, group_id: GroupIds) -> Rewards:
        centred, group, size = _centred(reward, group_id)
        std = (segment_sum(centred**2, group, len(size)) / (size - 1).clamp(min=1)).sqrt()
        return (centred / (std[group] + self.eps)).to(reward.dtype)


@ADVANTAGES.register("dr_grpo")
@dataclass
class DrGrpo:
    """R_i − mean R over the group (Dr.GRPO, 2503.20783)."""

    def __call__(self, reward: Rewards, group_id: GroupIds) -> Rewards:
        return _centred(reward, group_id)[0].to(reward.dtype)


@ADVANTAGES.register("rloo")
@dataclass
class Rloo:
    """R_i − mean R of the *other* responses of the group (RLOO); 0 for a response alone."""

    def __call__(self, reward: Rewards, group_id: GroupIds) -> Rewards:
        centred, group, size = _centred(reward, group_id)
        # R_i − (ΣR − R_i)/(G−1) = (R_i − mean R) · G/(G−1), which keeps equal rewards at exactly 0.
        return (centred * (size.double() / (size - 1).clamp(min=1))[group]).to(reward.dtype)


@ADVANTAGES.register("reinforce_pp")
@dataclass
class ReinforcePp(_Divided):
    """R_i − mean R over the group, divided by its deviation over the batch (REINFORCE++).

    The baseline form: subtracting the group's mean leaves the batch's mean at 0, so whitening
    is the division alone.
    """

    needs_group = False

    def __call__(self, reward: Rewards, group_id: GroupIds) -> Rewards:
        centred, _, _ = _centred(reward, group_id)
        std = (centred.square().sum() / max(len(centred) - 1, 1)).sqrt()
        return (centred / (std + self.eps)).to(reward.dtype)


@ADVANTAGES.register("unit")
@dataclass
class Unit:
    """1, for credit whose coefficients are the advantage of a token themselves (``vine``)."""

    needs_group = False
    left_to_credit = True

    def __call__(self, reward: Rewards, group_id: GroupIds) -> Rewards:
        return torch.ones_like(reward)


def grpo_advantages(reward: Rewards, group_id: GroupIds, *, eps: float = 1e-6) -> Rewards:
    return Grpo(eps)(reward, group_id)


def dr_grpo_advantages(reward: Rewards, group_id: GroupIds) -> Rewards:
    return DrGrpo()(reward, group_id)


def rloo_advantages(reward: Rewards, group_id: GroupIds) -> Rewards:
    return Rloo()(reward, group_id)


def reinforce_pp_advantages(reward: Rewards, group_id: GroupIds, *, eps: float = 1e-6) -> Rewards:
    return ReinforcePp(eps)(reward, group_id)
