"""What one training step learns from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rlvr.algorithm.advantages import Advantage
from rlvr.types import Group, Sample, samples_of


@dataclass(frozen=True)
class RolloutBatch:
    """Verified groups, and what it takes to go on from there."""

    step: int
    groups: list[Group]
    stream_state: dict[str, Any]  # of the prompt stream, after this batch was drawn
    discarded: int = 0  # groups without spread that dynamic sampling threw away

    @property
    def samples(self) -> list[Sample]:
        """All samples in sample order: group by group."""
        return samples_of(self.groups)

    @property
    def tokens(self) -> int:
        """Response tokens."""
        return sum(len(s.response.token_ids) for s in self.samples)

    def advantages(self, advantage: Advantage) -> np.ndarray:
        """A_i of every response, float64 [S], in sample order."""
        reward = torch.tensor(np.concatenate([g.rewards for g in self.groups]))
        sizes = torch.tensor([len(g.samples) for g in self.groups])
        group_id = torch.arange(len(self.groups)).repeat_interleave(sizes)
        return advantage(reward, group_id).numpy()
