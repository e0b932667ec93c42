"""Forking tokens (2506.01939): only the tokens at which the policy hesitates are trained on."""

import math
from dataclasses import dataclass

import torch

from rlvr.algorithm.aggregation import at_least_float32
from rlvr.algorithm.credit.base import CREDITS, Credit, Features, Needs, Ranks
from rlvr.algorithm.credit.diagnostics import coefficient_metrics
from rlvr.registry import require
from rlvr.types import TokenBatch


@CREDITS.register("entropy_top")
@dataclass
class EntropyTop:
    """c_t = 1 for the tokens of highest entropy in the rollout batch, 0 for the others.

    The batch is all its tokens, also those that can receive no gradient: what is selected does not
    depend on the objective. Tokens that tie with the last one kept are kept too.
    """

    share: float = 0.2  # of the batch's tokens that keep a gradient

    needs = Needs.STATISTICS | Needs.EVERY_TOKEN

    def __post_init__(self) -> None:
        require(0 < self.share <= 1, f"share must be in (0, 1], not {self.share}")

    def assign(self, batch: TokenBatch, features: Features, ranks: Ranks) -> Credit:
        everywhere = ranks.all_gather(features.entropy)
        coefficients = torch.zeros_like(at_least_float32(features.logp))
        if len(everywhere) == 0:
            return Credit(coefficients)
        kept = math.ceil(self.share * len(everywhere))
        threshold = torch.kthvalue(everywhere, len(everywhere) - kept + 1).values
        coefficients[features.entropy >= threshold] = 1.0
        metrics = coefficient_metrics(coefficients, batch.token_advantage, ranks)
        return Credit(coefficients, metrics | {"entropy_threshold": float(threshold)})
