"""Outcome-grounded advantage reshaping (OAR, 2601.07408): what OAR-P and OAR-G share.

Both methods ask how much the outcome, the distribution over answers (``oar_outcome``), hangs on a
reasoning token (``oar_segments``), and turn these scores s_t into weights. Tokens outside of the
reasoning keep weight 1, and so do responses without an extractable answer and groups without
spread, at no cost.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlvr.algorithm.aggregation import at_least_float32
from rlvr.algorithm.credit.base import Credit, Driver, Features, Ranks
from rlvr.algorithm.credit.chunks import chunked, in_step
from rlvr.algorithm.credit.diagnostics import coefficient_metrics
from rlvr.algorithm.credit.oar_outcome import MODES, outcome_divergence, outcomes
from rlvr.algorithm.credit.oar_segments import Segments, answer_inputs, segments, with_variants
from rlvr.registry import require, require_one_of
from rlvr.types import CreditInputs, Group, Packing, TokenBatch

Scores = Sequence[Float[Tensor, "_R"]]  # of each response, s_t at some or all of its reasoning
_KEYS_PER_TOKEN = 8  # keys that take as much memory as what a token needs in one layer


@dataclass
class Bilevel:
    """Weights of one response's reasoning tokens from their scores s_t ≥ 0.

    m = minmax(log1p(s)) and τ = quantile(m, q). Below τ: max(m/τ, floor). From τ on:
    1 + β (m−τ)/(1−τ). Flat scores give 1.
    """

    quantile: float = 0.25  # q: the share of reasoning tokens that is damped
    beta: float = 1.0  # how far the most decisive token is raised
    floor: float = 0.1  # least weight before the mass is restored
    preserve_mass: bool = True  # weights of a response's reasoning sum to its length

    def __post_init__(self) -> None:
        require(0 <= self.quantile < 1, f"quantile must be in [0, 1), not {self.quantile}")
        require(self.beta >= 0, f"beta must not be negative: {self.beta}")
        require(0 <= self.floor <= 1, f"floor must be in [0, 1], not {self.floor}")

    def weights(self, scores: Float[Tensor, "R"]) -> Float[Tensor, "R"]:
        if len(scores) == 0:
            return at_least_float32(scores)
        m = at_least_float32(scores).log1p()
        spread = m.max() - m.min()
        if float(spread) == 0:
            return torch.ones_like(m)
        m = (m - m.min()) / spread
        tau = torch.quantile(m, self.quantile)
        low = (m / tau).clamp(min=self.floor)  # τ = 0 leaves no token below it
        high = 1 + self.beta * (m - tau) / (1 - tau) if float(tau) < 1 else torch.ones_like(m)
        weights = torch.where(m < tau, low, high)
        return weights * (len(m) / weights.sum()) if self.preserve_mass else weights


def bilevel_weights(scores: Float[Tensor, "R"], **options: Any) -> Float[Tensor, "R"]:
    """What ``Bilevel(**options)`` makes of the scores of one response."""
    return Bilevel(**options).weights(scores)


@dataclass
class Oar(Bilevel, ABC):
    """What OAR-P and OAR-G share: all but the scores."""

    mode: str = "first"  # first | last | answer_mean | answer_joint: which outcome is compared
    target: str = "own"  # own: the response's answer | reference: the gold answer
    tokens_per_chunk: int = 16384  # of the further forward passes
    check_responses: int = 0  # a rank and step, for the rank correlation with exact OAR-P

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("mode", self.mode, MODES)
        require_one_of("target", self.target, ("own", "reference"))
        size, checked = self.tokens_per_chunk, self.check_responses
        require(size > 0, f"tokens_per_chunk must be positive, not {size}")
        require(checked >= 0, f"check_responses must not be negative: {checked}")

    async def prepare(self, groups: Sequence[Group], driver: Driver) -> CreditInputs:
        return answer_inputs(groups, driver, self.target)

    @torch.no_grad()
    def assign(self, batch: TokenBatch, features: Features, ranks: Ranks) -> Credit:
        """c_t: the bi-level weights of all reasoning tokens found, 1 elsewhere."""
        found = segments(batch, features, ranks, self.target)
        scores, metrics = self.scores(found, batch, features, ranks)
        coefficients = torch.ones_like(at_least_float32(features.logp))
        for part, s in zip(found, scores, strict=True):
            weights = self.weights(s).to(coefficients.dtype)
            coefficients[part.first : part.first + part.reasoning] = weights
        metrics |= coefficient_metrics(coefficients, batch.token_advantage, ranks)
        if self.check_responses:
            sample = found[: self.check_responses]
            everywhere = [torch.arange(p.reasoning) for p in sample]
            exact = self.perturbation_scores(sample, everywhere, features, ranks)
            metrics |= mean_rank_correlation(scores, exact, ranks)
        return Credit(coefficients, metrics)

    @abstractmethod
    def scores(
        self, found: Sequence[Segments], batch: TokenBatch, features: Features, ranks: Ranks
    ) -> tuple[Scores, dict[str, float]]:
        """s_t of all reasoning tokens, and what there is to report. Collective."""

    @torch.no_grad()
    def perturbation_scores(
        self,
        found: Sequence[Segments],
        positions: Sequence[Int[Tensor, "_k"]],
        features: Features,
        ranks: Ranks,
    ) -> Scores:
        """OAR-P's s_t at the given reasoning positions of every response. Collective.

        A response is packed together with its variants, which hold no more than the tokens from t
        on: what comes before is the same and they attend to it there.
        """

        def cost(variant: tuple[int, int], before: tuple[int, int] | None) -> int:
            """Its own tokens, some more for the keys before them, and at first the response."""
            part, whole = found[variant[0]], len(found[variant[0]].token_ids)
            joins = before is not None and before[0] == variant[0]
            own = whole - int(part.places[variant[1]]) + whole // _KEYS_PER_TOKEN
            return own if joins else own + whole

        variants = [(k, t) for k, at in enumerate(positions) for t in at.tolist()]
        policy = features.policy
        scores: list[list[Tensor]] = [[] for _ in found]
        with policy.head() as head:
            for some in in_step(chunked(variants, cost, self.tokens_per_chunk), ranks):
                if not some:
                    idle = Packing.idle(features.logp.device)
                    policy.hidden(policy.embed(idle.input_ids), idle)
                    continue
                packing, members = with_variants(found, some, policy.pad_token_id)
                hidden = policy.hidden(policy.embed(packing.input_ids), packing)
                answers = [found[k].answer for k, _ in members]
                result = outcomes(self.mode, hidden, packing, answers, head, features.temperature)
                clean = [i for i, (_, t) in enumerate(members) if t is None]
                for begin, end in zip(clean, [*clean[1:], len(members)], strict=True):
                    own = result[begin + 1 : end]
                    scores[members[begin][0]] += outcome_divergence(
                        result[begin].expand_as(own), own
                    )
        return [torch.stack(s).clamp(min=0) for s in scores]


def rank_correlation(x: Float[Tensor, "n"], y: Float[Tensor, "n"]) -> float:
    """Spearman's ρ, with average ranks for ties; NaN if either is flat."""
    a, b = (_average_ranks(z) for z in (x, y))
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a.norm() * b.norm()))


def _average_ranks(x: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    _, inverse, counts = torch.unique(x, return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2).double()[inverse]


def mean_rank_correlation(scores: Scores, exact: Scores, ranks: Ranks) -> dict[str, float]:
    """Mean of Spearman's ρ over responses and ranks; empty if there is none. Collective."""
    rho = [rank_correlation(s, e) for s, e in zip(scores, exact, strict=False)]
    rho = [r for r in rho if r == r]
    total = ranks.all_reduce(torch.tensor([sum(rho), len(rho)], dtype=torch.float64))
    return {"rank_correlation": float(total[0] / total[1])} if total[1] else {}
