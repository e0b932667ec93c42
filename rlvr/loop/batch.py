"""What one training step learns from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rlvr.algorithm.advantages import Advantage
from rlvr.data.stream import Draw
from rlvr.types import Group


@dataclass(frozen=True)
class RolloutBatch:
    """Verified groups, and what it takes to go on from there."""

    step: int
    groups: list[Group]
    stream_state: dict[str, Any]  # of the prompt stream, this batch settled
    draws: Sequence[Draw] = ()  # that the groups come from, in their order
    discarded: Sequence[Draw] = ()  # whose groups without spread dynamic sampling threw away

    def advantages(self, advantage: Advantage) -> np.ndarray:
        """A_i of every response, float64 [S], in sample order."""
        reward = torch.tensor(np.concatenate([g.rewards for g in self.groups]))
        sizes = torch.tensor([len(g.samples) for g in self.groups])
        group_id = torch.arange(len(self.groups)).repeat_interleave(sizes)
        return advantage(reward, group_id).numpy()
