"""No credit assignment: every token counts the same."""

from dataclasses import dataclass

import torch

from rlvr.algorithm.aggregation import at_least_float32
from rlvr.algorithm.credit.base import CREDITS, Credit, Features, Needs, Ranks
from rlvr.types import TokenBatch


@CREDITS.register("uniform")
@dataclass
class Uniform:
    """c_t = 1."""

    needs = Needs.NONE

    def assign(self, batch: TokenBatch, features: Features, ranks: Ranks) -> Credit:
        return Credit(torch.ones_like(at_least_float32(features.logp)))
