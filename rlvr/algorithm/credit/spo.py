"""SPO-chain (2505.23564): advantages of segments that end where the policy was not sure.

``steps`` has the formula, and why c_t = Δ/A_i. A cutpoint is a token with π(y_t) below a
threshold. A response is cut before every n-th cutpoint, beginning with the first one, and of a
segment only its cutpoints have its advantage: the other tokens get c = 0 (the probability mask),
and the loss is the mean over the cutpoints alone, for which c is multiplied by N / (cutpoints),
both over the rollout batch; exact under ``objective.aggregation=token_mean``.

From the released code, as is the whitening over the cutpoints; its mean is that of a micro-batch.
π is that of the rollout engine here, for cutpoints are needed before the learner scores.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from rlvr.algorithm.credit.base import CREDITS, Driver, Features, Ranks
from rlvr.algorithm.credit.steps import PerToken, StepAdvantages, whitened
from rlvr.registry import require
from rlvr.types import Sample, TokenBatch

_UNSURE = 0.15  # share of the tokens that a plan takes for cutpoints


@CREDITS.register("spo")
@dataclass
class Spo(StepAdvantages):
    """Δ of the segments, on their cutpoints."""

    threshold: float = 0.9  # cutpoints have π(y_t) below it
    every: int = 5  # cutpoints a segment
    mask: bool = True  # the probability mask; false: all tokens of a segment have its advantage
    whiten: bool = True  # (Δ − mean) / std over what the mask leaves where A ≠ 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.threshold <= 1, f"threshold must be in (0, 1], not {self.threshold}")
        require(self.every >= 1, f"every must be at least 1, not {self.every}")

    def expected_steps(self, length: float) -> float:
        return max(1.0, length * _UNSURE / self.every)

    def cuts(self, sample: Sample, driver: Driver) -> list[int]:
        unsure = sample.response.logp_rollout < math.log(self.threshold)
        places: list[int] = np.flatnonzero(unsure).tolist()
        return places[:: self.every]

    def advantages(
        self, delta: PerToken, batch: TokenBatch, features: Features, ranks: Ranks
    ) -> PerToken:
        taught = batch.token_advantage != 0
        left = taught.clone()
        if self.mask:
            left &= (batch.logp_rollout < math.log(self.threshold)).to(taught.device)
        if self.whiten:
            delta = whitened(delta, left, ranks)
        tokens, cutpoints = ranks.all_reduce(torch.stack([taught.sum(), left.sum()])).tolist()
        return torch.where(left, delta * (tokens / max(cutpoints, 1)), 0.0)
