"""What one training step learns from."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rlvr.algorithm.advantages import Advantage
from rlvr.types import Group


@dataclass(frozen=True)
class RolloutBatch:
    """Verified groups, and what it takes to go on from there."""

    step: int
    groups: list[Group]
    stream_state: dict[str, Any]  # of the prompt stream, this batch settled
    discarded: int = 0  # groups without spread that dynamic sampling threw away

    def advantages(self, advantage: Advantage) -> np.ndarray:
        """A_i of every response, float64 [S], in sample order."""
        reward = torch.tensor(np.concatenate([g.rewards for g in self.groups]))
        sizes = torch.tensor([len(g.samples) for g in self.groups])
        group_id = torch.arange(len(self.groups)).repeat_interleave(sizes)
        return advantage(reward, group_id).numpy()
