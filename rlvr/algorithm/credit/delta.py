"""DelTA (2605.21467): tokens whose gradient tells the two sides apart count more.

v_t stands for the token's gradient. μ₊ and μ₋ are the |A|-weighted centroids of the tokens with
A > 0 and A < 0 over the whole rollout batch, refined K times towards the tokens that lie nearer
to their own side. With w = μ₊ − μ₋ and b = ‖μ₋‖² − ‖μ₊‖² the difference of squared distances
is D⁺ = ‖v−μ₋‖² − ‖v−μ₊‖² = 2 v·w + b: one dot product a token, and v is only ever streamed
(``delta_solver``).
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlvr.algorithm.aggregation import at_least_float32
from rlvr.algorithm.credit.base import CREDITS, Credit, Features, Needs, Ranks, SoloRanks
from rlvr.algorithm.credit.delta_solver import DeltaOptions, DeltaSolver, FewStreamsSolver, Proxies
from rlvr.algorithm.credit.diagnostics import coefficient_metrics
from rlvr.algorithm.credit.noise import response_uniform
from rlvr.registry import require, require_one_of
from rlvr.types import TokenBatch

PerToken = Float[Tensor, "N"]
Member = Bool[Tensor, "N"]

_CHUNK = 1 << 26  # elements of logits, or of gathered rows of lm_head


def delta_coefficients(
    v: Float[Tensor, "T d"], advantage: Float[Tensor, "T"], **options: Any
) -> Float[Tensor, "T"]:
    """c_t of all response tokens of a batch, under ``DeltaOptions(**options)``.

    ``v`` are token-gradient proxies, e.g. (1 − p_t(y_t)) h_t; ``advantage`` is A_i of the response
    that each token belongs to.
    """
    everything = torch.arange(len(v), device=v.device)
    proxies = [(everything, at_least_float32(v))]
    solver = DeltaSolver(lambda: iter(proxies), advantage, DeltaOptions(**options), SoloRanks())
    return solver.coefficients().to(at_least_float32(v).dtype)


@CREDITS.register("delta")
@dataclass
class Delta(DeltaOptions):
    """λ_t · N/Z, from the stream of hidden states that the scoring pass kept."""

    proxy: str = "realised"  # realised: (1−p(y)) h | topk_hidden: W_y − Σ_topK p̃_j W_j
    top_k: int = 20  # K of topk_hidden
    scope: str = "global"  # global: over all ranks | rank: each rank by itself, as released
    select: str = "all"  # ablation: all | top | bottom | random: by λ, the others get c = 0
    share: float = 0.5  # of the tokens with an advantage that are selected
    seed: int = 0  # of the random selection

    needs = Needs.HIDDEN

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("proxy", self.proxy, ("realised", "topk_hidden"))
        require(self.top_k >= 1, f"top_k must be at least 1, not {self.top_k}")
        require_one_of("scope", self.scope, ("global", "rank"))
        require(
            self.scope == "global" or self.fixed_gamma != "first_step",
            "fixed_gamma=first_step is one scale for the whole run: it needs scope=global",
        )
        require_one_of("select", self.select, ("all", "top", "bottom", "random"))
        require(0 < self.share <= 1, f"share must be in (0, 1], not {self.share}")
        self.state: dict[str, list[float]] = {}  # kept in checkpoints

    @torch.no_grad()
    def assign(self, batch: TokenBatch, features: Features, ranks: Ranks) -> Credit:
        """c_t, without a forward pass when the hidden states were kept, with K + 2 when not."""
        member = features.scored & (batch.token_advantage != 0)
        advantage = torch.where(member, batch.token_advantage, 0.0)
        # Tokens of groups that the objective drops count nowhere, those with A = 0 in N and Z.
        counted = member | (batch.token_advantage == 0)
        dtype = at_least_float32(features.logp).dtype
        sides = ranks.all_reduce(torch.stack([(advantage > 0).sum(), (advantage < 0).sum()]))
        if int(sides.min()) == 0:
            return Credit(torch.ones_like(advantage, dtype=dtype))
        scope: Ranks = SoloRanks() if self.scope == "rank" else ranks
        with ExitStack() as stack:
            few = False  # what topk_hidden needs is kept
            if self.proxy == "topk_hidden":
                head = stack.enter_context(features.policy.head())
                proxies = topk_proxies(batch, features, head, self.top_k)
            else:
                proxies = realised_proxies(features)
                few = features.recomputes and FewStreamsSolver.suits(self)
            solver_class = FewStreamsSolver if few else DeltaSolver
            kept = self.state.get("gamma") if self.gamma == "fixed" else None
            solver = solver_class(proxies, advantage, self, scope, counted, kept)
            coefficients = solver.coefficients()
        if self.fixed_gamma == "first_step":
            self.state.setdefault("gamma", solver.first_gamma.tolist())
        metrics = coefficient_metrics(coefficients, advantage, ranks) | solver.metrics(ranks)
        return Credit(self._selected(coefficients, member, batch, ranks).to(dtype), metrics)

    def _selected(self, c: PerToken, member: Member, batch: TokenBatch, ranks: Ranks) -> PerToken:
        """The selected coefficients, 0 elsewhere. Collective."""
        if self.select == "all":
            return c
        by = {"top": -c, "bottom": c}
        rank = by[self.select] if self.select in by else response_uniform(batch, self.seed).to(c)
        everywhere = ranks.all_gather(rank[member])
        last = everywhere.kthvalue(math.ceil(self.share * len(everywhere))).values
        return torch.where(member & (rank <= last), c, 0.0)


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
            top = (h @ head.T).topk(k, dim=-1)
            p = (at_least_float32(top.values) / features.temperature).softmax(-1)
            kept.append((part, p, top.indices))
    target = batch.target

    def stream() -> Iterator[tuple[Tensor, Tensor]]:
        for n, p, ids in kept:
            expected = torch.bmm(p[:, None], at_least_float32(head[ids]))[:, 0]
            yield n, at_least_float32(head[target[n]]) - expected

    return stream
