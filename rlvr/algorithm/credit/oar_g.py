"""OAR-G: the gradient of the outcome with respect to a reasoning token's embedding.

p₀ comes from a clean forward pass. The embeddings e of the reasoning tokens receive a little
noise, J = KL(p₀ ‖ p_noisy), and s_t = |⟨∂J/∂e_t, e_t⟩|: one backward pass for all positions of a
response. Only gradients with respect to embeddings are asked for; those of the parameters stay
as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rlvr.algorithm.aggregation import at_least_float32
from rlvr.algorithm.credit.base import CREDITS, Credit, Features, Needs, Ranks
from rlvr.algorithm.credit.diagnostics import coefficient_metrics
from rlvr.algorithm.credit.noise import response_generators
from rlvr.algorithm.credit.oar import (
    OarConfig,
    Probe,
    idle_batch,
    mean_rank_correlation,
    outcome_divergence,
    outcomes,
    packed,
    portions,
    probes,
    scatter_weights,
)
from rlvr.algorithm.credit.oar_p import exact_scores
from rlvr.algorithm.registry import require, require_one_of
from rlvr.types import TokenBatch


@dataclass
class OarGConfig(OarConfig):
    """Options of ``credit=oar_g``."""

    name: str = "oar_g"
    mode: str = "answer_mean"
    saliency: str = "product"  # product: |⟨∂J/∂e, e⟩| | grad_norm: ‖∂J/∂e‖
    noise: float = 1e-3  # standard deviation
    seed: int = 0  # of the noise

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        require_one_of("saliency", self.saliency, ("product", "grad_norm"))
        require(self.noise > 0, f"noise must be positive, not {self.noise}")


@CREDITS.register("oar_g", OarGConfig)
class OarG:
    """Bi-level weights of the saliency scores."""

    needs = Needs.EMBEDDINGS | Needs.ANSWER

    def __init__(self, config: OarGConfig) -> None:
        self.config = config

    def assign(self, batch: TokenBatch, features: Features, ranks: Ranks) -> Credit:
        """w_t of the reasoning tokens, 1 elsewhere."""
        options = self.config
        found = probes(batch, features, ranks, options.target)
        generators = list(response_generators(batch, options.seed, batch.input_ids.device))
        scores = saliency_scores(
            options,
            found,
            [generators[p.sequence] for p in found],
            features,
            ranks,
            batch.input_ids.device,
        )
        coefficients = scatter_weights(options, batch, features, found, scores)
        metrics = coefficient_metrics(coefficients, batch.token_advantage, ranks)
        if options.check_responses:
            exact = exact_scores(options, found, batch, features, ranks)
            metrics |= mean_rank_correlation(scores, exact, ranks)
        return Credit(coefficients, metrics)


def saliency_scores(
    config: OarGConfig,
    found: Sequence[Probe],
    generators: Sequence[torch.Generator],
    features: Features,
    ranks: Ranks,
    device: torch.device,
) -> list[Float[Tensor, "_R"]]:
    """s_t of every probe's reasoning tokens; noise of each from its generator. Collective."""
    policy = features.policy
    chunks = portions([len(p.token_ids) for p in found], config.tokens_per_chunk)
    rounds = int(ranks.all_reduce(torch.tensor(len(chunks)), "max"))
    scores = []
    with policy.head() as head:
        for r in range(rounds):
            members = [found[i] for i in chunks[r]] if r < len(chunks) else []
            packing = packed([p.token_ids for p in members]) if members else idle_batch(device)
            embeddings = policy.embed(packing.input_ids).detach()
            spans = []
            noise = torch.zeros_like(embeddings)
            for i, begin in zip(
                chunks[r] if members else [], packing.cu_seqlens.tolist(), strict=False
            ):
                start = begin + found[i].start
                spans.append(slice(start, start + found[i].reasoning))
                noise[spans[-1]] = config.noise * torch.randn(
                    noise[spans[-1]].shape,
                    generator=generators[i],
                    device=noise.device,
                    dtype=noise.dtype,
                )
            answers = [p.answer for p in members] or [1]
            saliency = _saliency(config, embeddings, noise, packing, answers, head, features)
            scores += [saliency[span] for span in spans]
    return scores


def _saliency(
    config: OarGConfig,
    embeddings: Float[Tensor, "T d"],
    noise: Float[Tensor, "T d"],
    packing: TokenBatch,
    answers: Sequence[int],
    head: Float[Tensor, "V d"],
    features: Features,
) -> Float[Tensor, "T"]:
    """Saliency of every position; sequences do not attend to each other, so one J serves all."""

    def outcome(e: Tensor) -> Tensor:
        hidden = features.policy.hidden(e, packing)
        return outcomes(config.mode, hidden, packing, answers, head, features.temperature)

    with torch.no_grad():
        clean = outcome(embeddings)
    with torch.enable_grad():
        e = embeddings.requires_grad_()
        divergence = outcome_divergence(clean, outcome(e + noise)).sum()
        (gradient,) = torch.autograd.grad(divergence, e)
    gradient, e = at_least_float32(gradient), at_least_float32(embeddings.detach())
    if config.saliency == "grad_norm":
        return gradient.norm(dim=1)
    return (gradient * e).sum(1).abs()
