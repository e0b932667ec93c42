"""OAR-G: the gradient of the outcome with respect to a reasoning token's embedding.

p₀ comes from a clean forward pass. The embeddings e of the reasoning tokens receive a little
noise, J = KL(p₀ ‖ p_noisy), and s_t = |⟨∂J/∂e_t, e_t⟩|: one backward pass for all positions of a
response. Only gradients with respect to embeddings are asked for; those of the parameters stay
as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rlvr.algorithm.aggregation import at_least_float32
from rlvr.algorithm.credit.base import CREDITS, Credit, Features, Needs, Ranks
from rlvr.algorithm.credit.diagnostics import coefficient_metrics
from rlvr.algorithm.credit.noise import response_generators
from rlvr.algorithm.credit.oar import Oar, mean_rank_correlation
from rlvr.algorithm.credit.oar_outcome import outcome_divergence, outcomes
from rlvr.algorithm.credit.oar_p import exact_scores
from rlvr.algorithm.credit.oar_segments import Segments, segments
from rlvr.registry import require, require_one_of
from rlvr.types import Packing, TokenBatch


@CREDITS.register("oar_g")
@dataclass
class OarG(Oar):
    """Bi-level weights of the saliency scores."""

    mode: str = "answer_mean"
    saliency: str = "product"  # product: |⟨∂J/∂e, e⟩| | grad_norm: ‖∂J/∂e‖
    noise: float = 1e-3  # standard deviation
    seed: int = 0  # of the noise

    needs = Needs.EMBEDDINGS

    def __post_init__(self) -> None:
        super().__post_init__()
        require_one_of("saliency", self.saliency, ("product", "grad_norm"))
        require(self.noise > 0, f"noise must be positive, not {self.noise}")

    def assign(self, batch: TokenBatch, features: Features, ranks: Ranks) -> Credit:
        device = batch.input_ids.device
        found = segments(batch, features, ranks, self.target)
        generators = list(response_generators(batch, self.seed, device))
        noise = [generators[part.sequence] for part in found]
        scores = self.saliency_scores(found, noise, features, ranks, device)
        coefficients = self.reshaped(batch, features, found, scores)
        metrics = coefficient_metrics(coefficients, batch.token_advantage, ranks)
        if self.check_responses:
            exact = exact_scores(self, found, features, ranks, device)
            metrics |= mean_rank_correlation(scores, exact, ranks)
        return Credit(coefficients, metrics)

    def saliency_scores(
        self,
        found: Sequence[Segments],
        generators: Sequence[torch.Generator],
        features: Features,
        ranks: Ranks,
        device: torch.device,
    ) -> list[Float[Tensor, "_R"]]:
        """s_t of all reasoning tokens; noise of each response from its generator. Collective."""
        chunks = _chunks([len(part.token_ids) for part in found], self.tokens_per_chunk)
        rounds = int(ranks.all_reduce(torch.tensor(len(chunks)), "max"))
        scores = []
        with features.policy.head() as head:
            for r in range(rounds):
                members = chunks[r] if r < len(chunks) else []
                parts = [found[i] for i in members]
                packing = Packing.idle(device)
                if parts:
                    packing = Packing.of([part.token_ids for part in parts])
                embeddings = features.policy.embed(packing.input_ids).detach()
                begins = packing.cu_seqlens.tolist()
                starts = [begin + p.start for begin, p in zip(begins, parts, strict=False)]
                spans = [slice(s, s + p.reasoning) for s, p in zip(starts, parts, strict=True)]
                noise = torch.zeros_like(embeddings)
                for i, span in zip(members, spans, strict=True):
                    noise[span] = self.noise * torch.randn(
                        noise[span].shape, generator=generators[i], device=device, dtype=noise.dtype
                    )
                answers = [part.answer for part in parts] or [1]
                saliency = self._saliency(embeddings, noise, packing, answers, head, features)
                scores += [saliency[span] for span in spans]
        return scores

    def _saliency(
        self,
        embeddings: Float[Tensor, "T d"],
        noise: Float[Tensor, "T d"],
        packing: Packing,
        answers: Sequence[int],
        head: Float[Tensor, "V d"],
        features: Features,
    ) -> Float[Tensor, "T"]:
        """Saliency of every position; sequences do not see each other, so one J serves all."""

        def outcome(e: Tensor) -> Tensor:
            hidden = features.policy.hidden(e, packing)
            return outcomes(self.mode, hidden, packing, answers, head, features.temperature)

        with torch.no_grad():
            clean = outcome(embeddings)
        with torch.enable_grad():
            e = embeddings.requires_grad_()
            divergence = outcome_divergence(clean, outcome(e + noise)).sum()
            (gradient,) = torch.autograd.grad(divergence, e)
        gradient, e = at_least_float32(gradient), at_least_float32(embeddings.detach())
        if self.saliency == "grad_norm":
            return gradient.norm(dim=1)
        return (gradient * e).sum(1).abs()


def _chunks(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices 0..n−1 in order, cut so that each chunk has at most ``budget`` tokens."""
    cut: list[list[int]] = []
    room = 0
    for i, length in enumerate(lengths):
        if length > room or not cut:
            cut.append([])
            room = budget
        cut[-1].append(i)
        room -= length
    return cut
