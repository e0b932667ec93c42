"""DelTA's centroids and assignments: from v kept, or from as few streams of v as there can be."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlvr.algorithm.credit.base import Ranks
from rlvr.algorithm.credit.diagnostics import separation_auc
from rlvr.registry import require, require_one_of

# Streams (place on the N axis, v there); may be iterated again.
Proxies = Callable[[], Iterator[tuple[Int[Tensor, "n"], Float[Tensor, "n d"]]]]
# Weights of a chunk of tokens in its side's mean.
Weigh = Callable[[Int[Tensor, "n"], Float[Tensor, "n d"]], Float[Tensor, "n"]]

_MIN_VARIANCE = 1e-8


@dataclass
class DeltaOptions:
    """How coefficients follow from v; the defaults are those of the authors' runs."""

    refinements: int = 1  # K
    lambda_range: list[float] = field(default_factory=lambda: [0.8, 1.2])
    within_side: bool = False  # ablation: distance to the own centroid only
    gamma: str = "adaptive"  # adaptive: deviation of D, anew in every pass | fixed: see below
    fixed_gamma: str = "mean_distance"  # mean |D| to the first centroids | first_step: see Delta
    hard: bool = False  # ablation: α = 1[D > 0]
    normalise: bool = True  # c = λ N/Z; else c = λ
    range_map: bool = True  # λ = λ_min + (λ_max − λ_min) α; else λ = α

    def __post_init__(self) -> None:
        require(self.refinements >= 0, f"refinements must not be negative: {self.refinements}")
        require_range("lambda_range", self.lambda_range)
        require_one_of("gamma", self.gamma, ("adaptive", "fixed"))
        require_one_of("fixed_gamma", self.fixed_gamma, ("mean_distance", "first_step"))


class DeltaSolver:
    """The alternation between centroids and assignments, in float64 wherever sums are long."""

    def __init__(
        self,
        proxies: Proxies,
        advantage: Float[Tensor, "N"],
        options: DeltaOptions,
        ranks: Ranks,
        counted: Bool[Tensor, "N"] | None = None,
        kept_gamma: Sequence[float] | None = None,
    ) -> None:
        self.proxies = proxies
        self.options = options
        self.ranks = ranks
        self.counted = torch.ones_like(advantage, dtype=torch.bool) if counted is None else counted
        self.kept_gamma = kept_gamma
        self.weight = advantage.abs().double()
        self.sides: Bool[Tensor, "2 N"] = torch.stack([advantage > 0, advantage < 0])
        self.side_count = ranks.all_reduce(self.sides.sum(1))
        self.centroids: Float[Tensor, "2 d"] = self.weight.new_zeros(2, 0)
        self.margin: Float[Tensor, "N"] = torch.zeros_like(self.weight)
        self.first_gamma: Float[Tensor, "2"] = self.weight.new_zeros(2)

    def coefficients(self) -> Float[Tensor, "N"]:
        """c_t, float64; all 1 if a side is empty. Streams v 2 (K + 1) times."""
        self.centroids = self._mean(lambda n, v: self.weight[n])
        self.margin = self._margins()
        gamma = self._begun()
        for _ in range(self.options.refinements):
            weight = self.weight * self._assign(self.margin, self._on_side(gamma))
            self.centroids = self._mean(lambda n, v, weight=weight: weight[n])  # type: ignore[misc]
            gamma = self._next_gamma(gamma)  # of the old margin: γ lags behind by one pass
            self.margin = self._margins()
        return self._scale(gamma)

    def metrics(self, ranks: Ranks) -> dict[str, float]:
        """Distance of the centroids and how well they tell the sides apart. Collective."""
        distance = (self.centroids[0] - self.centroids[1]).norm()
        metrics = {"centroid_distance": float(ranks.all_reduce(distance)) / ranks.size}
        if not self.options.within_side:
            member = self.sides.any(0)
            toward_positive = torch.where(self.sides[0], self.margin, -self.margin)
            metrics["separation_auc"] = separation_auc(
                toward_positive[member], self.sides[0][member], ranks
            )
        return metrics

    def _mean(self, weigh: Weigh) -> Float[Tensor, "2 d"]:
        """μ± = Σ weight · v / Σ weight of each side; as it was where nothing has weight."""
        total, mass = self.weight.new_zeros(2, 0), self.weight.new_zeros(2)
        for n, v in self.proxies():
            weights = weigh(n, v) * self.sides[:, n]
            part = (weights.to(v.dtype) @ v).double()
            total = part if total.shape[1] == 0 else total + part
            mass += weights.sum(1)
        width = self.ranks.all_reduce(torch.tensor(total.shape[1]), "max")
        if total.shape[1] == 0:  # a rank without tokens
            total = self.weight.new_zeros(2, int(width))
        total, mass = self.ranks.all_reduce(total), self.ranks.all_reduce(mass)[:, None]
        previous = self.centroids if self.centroids.shape[1] else torch.zeros_like(total)
        return torch.where(mass > 0, total / mass, previous)

    def _margins(self) -> Float[Tensor, "N"]:
        """D: how much nearer a token lies to its own side's centroid; 0 where A = 0."""
        margin = torch.zeros_like(self.weight)
        for n, v in self.proxies():
            margin[n] = self._margin(n, v)
        return margin

    def _margin(self, n: Int[Tensor, "n"], v: Float[Tensor, "n d"]) -> Float[Tensor, "n"]:
        """D of a chunk; within the side, −‖v − μ_own‖²."""
        plus, minus = self.centroids
        if self.options.within_side:
            dots = (v @ self.centroids.to(v.dtype).T).double()
            square = (v * v).sum(1).double()[:, None]
            distance = square - 2 * dots + self.centroids.norm(dim=1) ** 2
            return -(distance * self.sides[:, n].T).sum(1)
        w = plus - minus
        b = -(w * (plus + minus)).sum()
        towards_plus = 2 * (v @ w.to(v.dtype)).double() + b
        return torch.where(self.sides[0, n], towards_plus, -towards_plus) * self.sides[:, n].any(0)

    def _begun(self) -> Float[Tensor, "2"]:
        """γ± to begin with, which is also kept in ``first_gamma``."""
        kept = self.kept_gamma
        self.first_gamma = self._first_gamma() if kept is None else self.weight.new_tensor(kept)
        return self.first_gamma

    def _first_gamma(self) -> Float[Tensor, "2"]:
        """γ± from the margins to the first centroids."""
        if self.options.gamma == "fixed" and self.options.fixed_gamma == "mean_distance":
            return self._side_mean(self.margin.abs()).clamp(min=_MIN_VARIANCE**0.5)
        return self._deviation()

    def _next_gamma(self, gamma: Float[Tensor, "2"]) -> Float[Tensor, "2"]:
        return gamma if self.options.gamma == "fixed" else self._deviation()

    def _deviation(self) -> Float[Tensor, "2"]:
        """Population deviation of D over the tokens of each side."""
        off = self.margin - self._on_side(self._side_mean(self.margin))
        return self._side_mean(off**2).clamp(min=_MIN_VARIANCE).sqrt()

    def _assign(self, margin: Float[Tensor, "n"], gamma: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """α = σ(D/γ), the maximiser of αD + γ·H(α) over [0, 1]; where A = 0, γ is 0 and so is α."""
        if self.options.hard:
            return (margin > 0).double()
        return torch.where(gamma > 0, torch.sigmoid(margin / gamma), 0.0)

    def _scale(self, gamma: Float[Tensor, "2"]) -> Float[Tensor, "N"]:
        """c = λ N/Z; 1 if a side is empty."""
        if int(self.side_count.min()) == 0:
            return torch.ones_like(self.weight)
        alpha = self._assign(self.margin, self._on_side(gamma))
        low, high = self.options.lambda_range if self.options.range_map else (0.0, 1.0)
        coefficients = low + (high - low) * alpha
        if not self.options.normalise:
            return coefficients
        return normalised(coefficients, self.ranks, self.counted)

    def _side_mean(self, x: Float[Tensor, "N"]) -> Float[Tensor, "2"]:
        return self.ranks.all_reduce((x * self.sides).sum(1)) / self.side_count.clamp(min=1)

    def _on_side(self, x: Float[Tensor, "2"]) -> Float[Tensor, "N"]:
        """The value of each token's side, 0 where A = 0."""
        return (x[:, None] * self.sides).sum(0)


class FewStreamsSolver(DeltaSolver):
    """The same from K + 2 streams, for features whose every stream is a forward pass.

    A refinement needs γ before it can weigh a token, and γ is the deviation of all tokens' D. The
    first γ follows from second moments that the first stream gathers: Var(D) = 4 wᵀ Cov(v) w. All
    later ones are of the pass before. So D and the mean that it weighs share a stream. Not for
    ``within_side``, whose D is quadratic in v, nor for the mean of |D|.
    """

    @staticmethod
    def suits(options: DeltaOptions) -> bool:
        """Whether these options allow it."""
        mean_distance = options.gamma == "fixed" and options.fixed_gamma == "mean_distance"
        return not options.within_side and not mean_distance

    def coefficients(self) -> Float[Tensor, "N"]:
        """c_t, float64; all 1 if a side is empty."""
        self.first: Float[Tensor, "2 d"] = self.weight.new_zeros(2, 0)
        self.second: Float[Tensor, "2 d d"] = self.weight.new_zeros(2, 0, 0)
        self.centroids = self._mean(self._observe)
        gamma = self._begun()
        for _ in range(self.options.refinements):
            self.centroids = self._mean(partial(self._refine, gamma))
            gamma = self._next_gamma(gamma)
        self.margin = self._margins()
        return self._scale(gamma)

    def _observe(self, n: Int[Tensor, "n"], v: Float[Tensor, "n d"]) -> Float[Tensor, "n"]:
        """Weights of the first means; meanwhile Σ v and Σ v vᵀ over each side."""
        if self.first.shape[1] == 0:
            self.first = self.weight.new_zeros(2, v.shape[1])
            self.second = self.weight.new_zeros(2, v.shape[1], v.shape[1])
        for side, first, second in zip(self.sides[:, n], self.first, self.second, strict=True):
            own = v[side].double()
            first += own.sum(0)
            second.addmm_(own.T, own)
        return self.weight[n]

    def _first_gamma(self) -> Float[Tensor, "2"]:
        """γ± of the margins to the first centroids, before any of them is formed."""
        w = self.centroids[0] - self.centroids[1]
        sums = self.weight.new_zeros(2, 2)
        if self.first.shape[1]:  # else a rank without tokens
            sums = torch.stack([self.first @ w, self.second @ w @ w])
        mean, square = self.ranks.all_reduce(sums) / self.side_count.clamp(min=1)
        return (4 * (square - mean**2)).clamp(min=_MIN_VARIANCE).sqrt()

    def _refine(
        self, gamma: Float[Tensor, "2"], n: Int[Tensor, "n"], v: Float[Tensor, "n d"]
    ) -> Float[Tensor, "n"]:
        """Weights of the next means, from the distances to the present ones."""
        self.margin[n] = self._margin(n, v)
        own = (gamma[:, None] * self.sides[:, n]).sum(0)
        return self.weight[n] * self._assign(self.margin[n], own)


def require_range(key: str, value: Sequence[float]) -> None:
    """ValueError unless ``value`` is [low, high] with 0 ≤ low ≤ high."""
    require(
        len(value) == 2 and 0 <= value[0] <= value[1],
        f"{key} must be [low, high] with 0 <= low <= high, not {value}",
    )


def normalised(
    coefficients: Float[Tensor, "N"], ranks: Ranks, counted: Bool[Tensor, "N"] | None = None
) -> Float[Tensor, "N"]:
    """λ N/Z with N tokens and Z = Σ λ over all ranks, so that Σ c = N; 1 for those not counted.

    Collective.
    """
    if counted is None:
        counted = torch.ones_like(coefficients, dtype=torch.bool)
    n, z = ranks.all_reduce(torch.stack([counted.sum(), (coefficients * counted).sum()]))
    if float(z) <= 0:
        return torch.ones_like(coefficients)
    return torch.where(counted, coefficients * (n / z), 1.0)
