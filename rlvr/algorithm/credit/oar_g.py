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
from rlvr.algorithm.credit.base import CREDITS, Features, Needs, Ranks
from rlvr.algorithm.credit.chunks import chunked, in_step
from rlvr.algorithm.credit.noise import response_generators
from rlvr.algorithm.credit.oar import Oar, Scores
from rlvr.algorithm.credit.oar_outcome import outcome_divergence, outcomes
from rlvr.algorithm.credit.oar_segments import Segments
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

    def scores(
        self, found: Sequence[Segments], batch: TokenBatch, features: Features, ranks: Ranks
    ) -> tuple[Scores, dict[str, float]]:
        generators = list(response_generators(batch, self.seed, features.logp.device))
        own = [generators[part.sequence] for part in found]
        return self.saliency_scores(found, own, features, ranks), {}

    def saliency_scores(
        self,
        found: Sequence[Segments],
        generators: Sequence[torch.Generator],
        features: Features,
        ranks: Ranks,
    ) -> Scores:
        """s_t of all reasoning tokens; noise of each response from its generator. Collective."""
        pairs = zip(found, generators, strict=True)
        chunks = chunked(pairs, lambda pair, _: len(pair[0].token_ids), self.tokens_per_chunk)
        scores = []
        with features.policy.head() as head:
            for chunk in in_step(chunks, ranks):
                packing = Packing.idle(features.logp.device)
                if chunk:
                    packing = Packing.of([part.token_ids for part, _ in chunk])
                embeddings = features.policy.embed(packing.input_ids).detach()
                noise, at = torch.zeros_like(embeddings), []
                for begin, (part, dice) in zip(packing.cu_seqlens.tolist(), chunk, strict=False):
                    own, shape = begin + part.places, (part.reasoning, noise.shape[1])
                    noise[own] = self.noise * torch.randn(
                        shape, generator=dice, device=noise.device, dtype=noise.dtype
                    )
                    at.append(own)
                answers = [part.answer for part, _ in chunk] or [1]
                saliency = self._saliency(embeddings, noise, packing, answers, head, features)
                scores += [saliency[own] for own in at]
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
