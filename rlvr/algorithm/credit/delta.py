"""DelTA (2605.21467): tokens whose gradient tells the two sides apart count more.

v_t stands for the token's gradient. μ₊ and μ₋ are the |A|-weighted centroids of the tokens with
A > 0 and A < 0 over the whole rollout batch, refined K times towards the tokens that lie nearer
to their own side. With w = μ₊ − μ₋ and b = ‖μ₋‖² − ‖μ₊‖² the difference of squared distances
is D⁺ = ‖v−μ₋‖² − ‖v−μ₊‖² = 2 v·w + b: one dot product a token, and v is only ever streamed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlvr.algorithm.aggregation import at_least_float32
from rlvr.algorithm.credit.base import CREDITS, Credit, Features, Needs, Ranks, SoloRanks
from rlvr.algorithm.credit.diagnostics import coefficient_metrics, separation_auc
from rlvr.algorithm.registry import require, require_one_of
from rlvr.types import TokenBatch

# Streams (place on the N axis, v there); may be iterated again.
Proxies = Callable[[], Iterator[tuple[Int[Tensor, "n"], Float[Tensor, "n d"]]]]

_MIN_VARIANCE = 1e-8
_CHUNK = 1 << 26  # elements of logits, or of gathered rows of lm_head


@dataclass
class DeltaConfig:
    """Options of ``credit=delta``; the defaults are those of the authors' runs."""

    name: str = "delta"
    refinements: int = 1  # K
    lambda_range: list[float] = field(default_factory=lambda: [0.8, 1.2])
    proxy: str = "realised"  # realised: (1−p(y)) h | topk_hidden: W_y − Σ_topK p̃_j W_j
    top_k: int = 20  # K of topk_hidden
    scope: str = "global"  # global: over all ranks | rank: each rank by itself, as released
    within_side: bool = False  # ablation: distance to the own centroid only
    gamma: str = "adaptive"  # adaptive: deviation of D | fixed: gamma_value
    gamma_value: float = 1.0
    hard: bool = False  # ablation: α = 1[D > 0]
    normalise: bool = True  # c = λ N/Z; else c = λ
    range_map: bool = True  # λ = λ_min + (λ_max − λ_min) α; else λ = α

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.refinements >= 0, f"refinements must not be negative: {self.refinements}")
        require(
            len(self.lambda_range) == 2 and 0 <= self.lambda_range[0] <= self.lambda_range[1],
            f"lambda_range must be [low, high] with 0 <= low <= high, not {self.lambda_range}",
        )
        require_one_of("proxy", self.proxy, ("realised", "topk_hidden"))
        require(self.top_k >= 1, f"top_k must be at least 1, not {self.top_k}")
        require_one_of("scope", self.scope, ("global", "rank"))
        require_one_of("gamma", self.gamma, ("adaptive", "fixed"))
        require(self.gamma_value > 0, f"gamma_value must be positive, not {self.gamma_value}")


def delta_coefficients(
    v: Float[Tensor, "T d"],
    advantage: Float[Tensor, "T"],
    *,
    refinements: int = 1,
    lambda_range: Sequence[float] = (0.8, 1.2),
    within_side: bool = False,
    gamma: str = "adaptive",
    gamma_value: float = 1.0,
    hard: bool = False,
    normalise: bool = True,
    range_map: bool = True,
) -> Float[Tensor, "T"]:
    """c_t of all response tokens of a batch.

    Args:
        v: token-gradient proxies, e.g. (1 − p_t(y_t)) h_t.
        advantage: A_i of the response that each token belongs to.
        refinements: K.
        lambda_range: λ_min and λ_max.
        within_side: use the distance to the own centroid only (against its mean).
        gamma: ``adaptive`` scales D by its deviation on the token's side, ``fixed`` by
            ``gamma_value``.
        gamma_value: the scale of ``fixed``.
        hard: α = 1[D > 0] in place of the sigmoid.
        normalise: multiply by N/Z, so that Σ c = T.
        range_map: map α to ``lambda_range``; else λ = α.
    """
    config = DeltaConfig(
        refinements=refinements,
        lambda_range=list(lambda_range),
        within_side=within_side,
        gamma=gamma,
        gamma_value=gamma_value,
        hard=hard,
        normalise=normalise,
        range_map=range_map,
    )
    everything = torch.arange(len(v), device=v.device)
    proxies = [(everything, at_least_float32(v))]
    solver = DeltaSolver(lambda: iter(proxies), advantage, config, SoloRanks())
    return solver.coefficients().to(at_least_float32(v).dtype)


@CREDITS.register("delta", DeltaConfig)
class Delta:
    """λ_t · N/Z, from the stream of hidden states that the scoring pass kept."""

    needs = Needs.HIDDEN

    def __init__(self, config: DeltaConfig) -> None:
        self.config = config

    @torch.no_grad()
    def assign(self, batch: TokenBatch, features: Features, ranks: Ranks) -> Credit:
        """c_t, without a forward pass when the hidden states were kept."""
        advantage = batch.token_advantage
        dtype = at_least_float32(features.logp).dtype
        sides = ranks.all_reduce(torch.stack([(advantage > 0).sum(), (advantage < 0).sum()]))
        if int(sides.min()) == 0:
            return Credit(torch.ones_like(advantage, dtype=dtype))
        scope: Ranks = SoloRanks() if self.config.scope == "rank" else ranks
        with ExitStack() as stack:
            if self.config.proxy == "topk_hidden":
                head = stack.enter_context(features.policy.head())
                proxies = topk_proxies(batch, features, head, self.config.top_k)
            else:
                proxies = realised_proxies(features)
            solver = DeltaSolver(proxies, advantage, self.config, scope)
            coefficients = solver.coefficients()
        metrics = coefficient_metrics(coefficients, advantage, ranks) | solver.metrics(ranks)
        return Credit(coefficients.to(dtype), metrics)


def realised_proxies(features: Features) -> Proxies:
    """v_t = (1 − p_t(y_t)) h_t."""

    def stream() -> Iterator[tuple[Tensor, Tensor]]:
        for n, hidden in features.hidden():
            scale = -torch.expm1(at_least_float32(features.logp[n]))
            yield n, scale[:, None] * at_least_float32(hidden)

    return stream


def topk_proxies(
    batch: TokenBatch, features: Features, head: Float[Tensor, "V d"], k: int
) -> Proxies:
    """v_t = W_{y_t} − Σ_{j ∈ top K} p̃_t(j) W_j, p̃ renormalised over the K largest logits.

    The logits exist for one chunk at a time; ids and p̃ are kept, K numbers a token.
    """
    k = min(k, len(head))
    rows = max(_CHUNK // max(len(head), k * head.shape[1]), 1)
    kept = []
    for n, hidden in features.hidden():
        for part, h in zip(n.split(rows), hidden.split(rows), strict=True):
            logits = at_least_float32(h @ head.T) / features.temperature
            top = logits.topk(k, dim=-1)
            kept.append((part, top.values.softmax(-1), top.indices))
    target = batch.input_ids[batch.response_index]

    def stream() -> Iterator[tuple[Tensor, Tensor]]:
        for n, p, ids in kept:
            expected = torch.bmm(p[:, None], at_least_float32(head[ids]))[:, 0]
            yield n, at_least_float32(head[target[n]]) - expected

    return stream


class DeltaSolver:
    """The alternation between centroids and assignments, in float64 wherever sums are long."""

    def __init__(
        self,
        proxies: Proxies,
        advantage: Float[Tensor, "N"],
        config: DeltaConfig,
        ranks: Ranks,
    ) -> None:
        self.proxies = proxies
        self.config = config
        self.ranks = ranks
        self.weight = advantage.abs().double()
        self.sides: Bool[Tensor, "2 N"] = torch.stack([advantage > 0, advantage < 0])
        self.side_count = ranks.all_reduce(self.sides.sum(1))
        self.centroids: Float[Tensor, "2 d"] = self._mean(self.weight, None)
        self.margin: Float[Tensor, "N"] = self._margin()

    def coefficients(self) -> Float[Tensor, "N"]:
        """c_t, float64; all 1 if a side is empty."""
        gamma = self._gamma()
        for _ in range(self.config.refinements):
            alpha = self._assign(gamma)
            self.centroids = self._mean(self.weight * alpha, self.centroids)
            gamma = self._gamma()  # of the old margin: γ lags behind by one pass
            self.margin = self._margin()
        if int(self.side_count.min()) == 0:
            return torch.ones_like(self.weight)
        return self._scale(self._assign(gamma))

    def metrics(self, ranks: Ranks) -> dict[str, float]:
        """Distance of the centroids and how well they tell the sides apart. Collective."""
        distance = (self.centroids[0] - self.centroids[1]).norm()
        metrics = {"centroid_distance": float(ranks.all_reduce(distance)) / ranks.size}
        if not self.config.within_side:
            member = self.sides.any(0)
            toward_positive = torch.where(self.sides[0], self.margin, -self.margin)
            metrics["separation_auc"] = separation_auc(
                toward_positive[member], self.sides[0][member], ranks
            )
        return metrics

    def _mean(
        self, weight: Float[Tensor, "N"], previous: Float[Tensor, "2 d"] | None
    ) -> Float[Tensor, "2 d"]:
        """μ± = Σ weight · v / Σ weight of each side; ``previous`` where nothing has weight."""
        weights = weight * self.sides
        total = weight.new_zeros(2, 0)
        for n, v in self.proxies():
            part = (weights[:, n].to(v.dtype) @ v).double()
            total = part if total.shape[1] == 0 else total + part
        width = self.ranks.all_reduce(torch.tensor(total.shape[1]), "max")
        if total.shape[1] == 0:  # a rank without tokens
            total = weight.new_zeros(2, int(width))
        total = self.ranks.all_reduce(total)
        mass = self.ranks.all_reduce(weights.sum(1))[:, None]
        fallback = torch.zeros_like(total) if previous is None else previous
        return torch.where(mass > 0, total / mass, fallback)

    def _margin(self) -> Float[Tensor, "N"]:
        """D: how much nearer a token lies to its own side's centroid; 0 where A = 0."""
        plus, minus = self.centroids
        margin = torch.zeros_like(self.weight)
        if self.config.within_side:
            for n, v in self.proxies():
                dots = (v @ self.centroids.to(v.dtype).T).double()
                distance = (
                    (v * v).sum(1).double()[:, None] - 2 * dots + self.centroids.norm(dim=1) ** 2
                )
                margin[n] = -(distance * self.sides[:, n].T).sum(1)
            return margin - self._on_side(self._side_mean(margin))
        w = plus - minus
        b = -(w * (plus + minus)).sum()
        for n, v in self.proxies():
            margin[n] = 2 * (v @ w.to(v.dtype)).double() + b
        return margin * (self.sides[0].double() - self.sides[1].double())

    def _gamma(self) -> Float[Tensor, "2"]:
        """γ±: population deviation of D over the tokens of each side."""
        if self.config.gamma == "fixed":
            return self.weight.new_full((2,), self.config.gamma_value)
        off = self.margin - self._on_side(self._side_mean(self.margin))
        return self._side_mean(off**2).clamp(min=_MIN_VARIANCE).sqrt()

    def _assign(self, gamma: Float[Tensor, "2"]) -> Float[Tensor, "N"]:
        """α = σ(D/γ), the maximiser of αD + γ·H(α) over [0, 1]; 0 where A = 0."""
        if self.config.hard:
            return (self.margin > 0).double()
        member = self.sides.any(0)
        return torch.where(member, torch.sigmoid(self.margin / self._on_side(gamma)), 0.0)

    def _scale(self, alpha: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
        """c = λ N/Z."""
        low, high = self.config.lambda_range if self.config.range_map else (0.0, 1.0)
        coefficients = low + (high - low) * alpha
        if not self.config.normalise:
            return coefficients
        return normalised(coefficients, self.ranks)

    def _side_mean(self, x: Float[Tensor, "N"]) -> Float[Tensor, "2"]:
        return self.ranks.all_reduce((x * self.sides).sum(1)) / self.side_count.clamp(min=1)

    def _on_side(self, x: Float[Tensor, "2"]) -> Float[Tensor, "N"]:
        """The value of each token's side, 0 where A = 0."""
        return (x[:, None] * self.sides).sum(0)


def normalised(coefficients: Float[Tensor, "N"], ranks: Ranks) -> Float[Tensor, "N"]:
    """λ N/Z with N tokens and Z = Σ λ over all ranks, so that Σ c = N. Collective."""
    count = coefficients.new_tensor(float(len(coefficients)))
    n, z = ranks.all_reduce(torch.stack([count, coefficients.sum()]))
    return coefficients * (n / z) if float(z) > 0 else torch.ones_like(coefficients)
