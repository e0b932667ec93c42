"""Outcome-grounded advantage reshaping (OAR, 2601.07408): what OAR-P and OAR-G share.

Both methods ask how much the outcome, the distribution over answers (``oar_outcome``), hangs on a
reasoning token (``oar_segments``), and turn these scores s_t into weights. Tokens outside of the
reasoning keep weight 1, and so do responses without an extractable answer and groups without
spread, at no cost.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rlvr.algorithm.aggregation import at_least_float32
from rlvr.algorithm.credit.base import Driver, Features, Ranks
from rlvr.algorithm.credit.oar_outcome import MODES
from rlvr.algorithm.credit.oar_segments import Segments, answer_inputs
from rlvr.registry import require, require_one_of
from rlvr.types import CreditInputs, Group, TokenBatch


def bilevel_weights(
    scores: Float[Tensor, "R"],
    *,
    quantile: float = 0.25,
    beta: float = 1.0,
    floor: float = 0.1,
    preserve_mass: bool = True,
) -> Float[Tensor, "R"]:
    """Weights of one response's reasoning tokens from their scores s_t ≥ 0.

    m = minmax(log1p(s)) and τ = quantile(m, q). Below τ: max(m/τ, floor). From τ on:
    1 + β (m−τ)/(1−τ). Flat scores give 1.

    Args:
        scores: s_t.
        quantile: q.
        beta: how far the most decisive token is raised.
        floor: the least weight before the mass is restored.
        preserve_mass: scale so that Σ w = R.
    """
    if len(scores) == 0:
        return at_least_float32(scores)
    m = at_least_float32(scores).log1p()
    spread = m.max() - m.min()
    if float(spread) == 0:
        return torch.ones_like(m)
    m = (m - m.min()) / spread
    tau = torch.quantile(m, quantile)
    low = (m / tau).clamp(min=floor)  # τ = 0 leaves no token below it
    high = 1 + beta * (m - tau) / (1 - tau) if float(tau) < 1 else torch.ones_like(m)
    weights = torch.where(m < tau, low, high)
    return weights * (len(m) / weights.sum()) if preserve_mass else weights


@dataclass
class Oar:
    """Options that OAR-P and OAR-G share, and the reshaping."""

    mode: str = "first"  # first | last | answer_mean | answer_joint: which outcome is compared
    target: str = "own"  # own: the response's answer | reference: the gold answer
    quantile: float = 0.25  # q: the share of reasoning tokens that is damped
    beta: float = 1.0  # how far the most decisive token is raised
    floor: float = 0.1  # least weight before the mass is restored
    preserve_mass: bool = True  # weights of a response's reasoning sum to its length
    tokens_per_chunk: int = 16384  # of the further forward passes
    check_responses: int = 0  # a rank and step, for the rank correlation with exact OAR-P

    def __post_init__(self) -> None:
        require_one_of("mode", self.mode, MODES)
        require_one_of("target", self.target, ("own", "reference"))
        require(0 <= self.quantile < 1, f"quantile must be in [0, 1), not {self.quantile}")
        require(self.beta >= 0, f"beta must not be negative: {self.beta}")
        require(0 <= self.floor <= 1, f"floor must be in [0, 1], not {self.floor}")
        require(
            self.tokens_per_chunk > 0,
            f"tokens_per_chunk must be positive, not {self.tokens_per_chunk}",
        )
        require(
            self.check_responses >= 0,
            f"check_responses must not be negative: {self.check_responses}",
        )

    async def prepare(self, groups: Sequence[Group], driver: Driver) -> CreditInputs:
        return answer_inputs(groups, driver, self.target)

    def reshaped(
        self,
        batch: TokenBatch,
        features: Features,
        found: Sequence[Segments],
        scores: Sequence[Float[Tensor, "_R"]],
    ) -> Float[Tensor, "N"]:
        """c_t: the bi-level weights of all reasoning tokens found, 1 elsewhere."""
        coefficients = torch.ones_like(at_least_float32(features.logp))
        for part, s in zip(found, scores, strict=True):
            weights = bilevel_weights(
                s,
                quantile=self.quantile,
                beta=self.beta,
                floor=self.floor,
                preserve_mass=self.preserve_mass,
            )
            coefficients[part.first : part.first + part.reasoning] = weights.to(coefficients.dtype)
        return coefficients


def rank_correlation(x: Float[Tensor, "n"], y: Float[Tensor, "n"]) -> float:
    """Spearman's ρ, with average ranks for ties; NaN if either is flat."""
    a, b = (_average_ranks(z) for z in (x, y))
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a.norm() * b.norm()))


def _average_ranks(x: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    _, inverse, counts = torch.unique(x, return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2).double()[inverse]


def mean_rank_correlation(
    scores: Sequence[Float[Tensor, "_R"]], exact: Sequence[Float[Tensor, "_R"]], ranks: Ranks
) -> dict[str, float]:
    """Mean of Spearman's ρ over responses and ranks; empty if there is none. Collective."""
    rho = [rank_correlation(s, e) for s, e in zip(scores, exact, strict=False)]
    rho = [r for r in rho if r == r]
    total = ranks.all_reduce(torch.tensor([sum(rho), len(rho)], dtype=torch.float64))
    return {"rank_correlation": float(total[0] / total[1])} if total[1] else {}
