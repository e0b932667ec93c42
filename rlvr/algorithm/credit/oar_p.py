"""OAR-P: how far the outcome moves when a reasoning token is blanked out, one at a time.

For every reasoning position t the token is replaced by PAD (its position kept and attended to),
one forward pass without a gradient, and s_t = KL(p_clean ‖ p_t). R passes over a response:
``stride`` and ``max_positions`` score some positions and interpolate between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlvr.algorithm.credit.base import CREDITS, Credit, Features, Needs, Ranks
from rlvr.algorithm.credit.diagnostics import coefficient_metrics
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
from rlvr.algorithm.registry import require
from rlvr.types import TokenBatch


@dataclass
class OarPConfig(OarConfig):
    """Options of ``credit=oar_p``."""

    name: str = "oar_p"
    mode: str = "last"
    stride: int = 1  # score every n-th reasoning position (and the last)
    max_positions: int | None = None  # a response, evenly spread

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        require(self.stride >= 1, f"stride must be at least 1, not {self.stride}")
        require(
            self.max_positions is None or self.max_positions >= 2,
            f"max_positions must be at least 2 or null, not {self.max_positions}",
        )


@CREDITS.register("oar_p", OarPConfig)
class OarP:
    """Bi-level weights of the perturbation scores."""

    needs = Needs.EMBEDDINGS | Needs.ANSWER

    def __init__(self, config: OarPConfig) -> None:
        self.config = config

    @torch.no_grad()
    def assign(self, batch: TokenBatch, features: Features, ranks: Ranks) -> Credit:
        """w_t of the reasoning tokens, 1 elsewhere."""
        options = self.config
        found = probes(batch, features, ranks, options.target)
        positions = [
            chosen_positions(p.reasoning, options.stride, options.max_positions) for p in found
        ]
        some = perturbation_scores(options, found, positions, batch, features, ranks)
        scores = [
            interpolated(s, at, p.reasoning)
            for s, at, p in zip(some, positions, found, strict=True)
        ]
        coefficients = scatter_weights(options, batch, features, found, scores)
        metrics = coefficient_metrics(coefficients, batch.token_advantage, ranks)
        if options.check_responses:
            exact = exact_scores(options, found, batch, features, ranks)
            metrics |= mean_rank_correlation(scores, exact, ranks)
        return Credit(coefficients, metrics)


def chosen_positions(reasoning: int, stride: int, most: int | None) -> Int[Tensor, "k"]:
    """Every ``stride``-th of 0..R−1 and the last; at most ``most``, evenly spread."""
    at = torch.arange(0, reasoning, stride)
    if at[-1] != reasoning - 1:
        at = torch.cat([at, torch.tensor([reasoning - 1])])
    if most is not None and len(at) > most:
        at = torch.unique(torch.linspace(0, reasoning - 1, most).round().long())
    return at


def interpolated(
    scores: Float[Tensor, "k"], at: Int[Tensor, "k"], reasoning: int
) -> Float[Tensor, "R"]:
    """Linear interpolation of the scores at ``at`` (ascending, from 0 to R−1) to all positions."""
    if len(at) == reasoning:
        return scores
    at = at.to(scores.device)
    every = torch.arange(reasoning, device=scores.device)
    right = torch.searchsorted(at, every).clamp(min=1)
    left = right - 1
    share = (every - at[left]).to(scores.dtype) / (at[right] - at[left])
    return scores[left] + (scores[right] - scores[left]) * share


def exact_scores(
    config: OarConfig, found: Sequence[Probe], batch: TokenBatch, features: Features, ranks: Ranks
) -> list[Float[Tensor, "R"]]:
    """s_t of the first ``check_responses`` probes at every position. Collective."""
    sample = found[: config.check_responses]
    everywhere = [torch.arange(p.reasoning) for p in sample]
    return perturbation_scores(config, sample, everywhere, batch, features, ranks)


@torch.no_grad()
def perturbation_scores(
    config: OarConfig,
    found: Sequence[Probe],
    positions: Sequence[Int[Tensor, "k"]],
    batch: TokenBatch,
    features: Features,
    ranks: Ranks,
) -> list[Float[Tensor, "k"]]:
    """s_t at the given reasoning positions of every probe. Collective.

    Variants of all responses are packed together; the clean ones go first.
    """
    policy, device = features.policy, batch.input_ids.device
    # (probe, position in token_ids or −1 for the clean response)
    plan = [(k, -1) for k in range(len(found))]
    plan += [(k, found[k].start + t) for k in range(len(found)) for t in positions[k].tolist()]
    chunks = portions([len(found[k].token_ids) for k, _ in plan], config.tokens_per_chunk)
    rounds = int(ranks.all_reduce(torch.tensor(len(chunks)), "max"))
    clean: list[Tensor] = []
    scores: list[list[Tensor]] = [[] for _ in found]
    with policy.head() as head:
        for r in range(rounds):
            if r >= len(chunks):
                idle = idle_batch(device)
                policy.hidden(policy.embed(idle.input_ids), idle)
                continue
            variants = [plan[i] for i in chunks[r]]
            packing = packed([_blanked(found[k], at, policy.pad_token_id) for k, at in variants])
            hidden = policy.hidden(policy.embed(packing.input_ids), packing)
            answers = [found[k].answer for k, _ in variants]
            result = outcomes(config.mode, hidden, packing, answers, head, features.temperature)
            unchanged = sum(at < 0 for _, at in variants)
            clean += result[:unchanged]
            variants, result = variants[unchanged:], result[unchanged:]
            if variants:
                reference = torch.stack([clean[k] for k, _ in variants])
                for (k, _), s in zip(variants, outcome_divergence(reference, result), strict=True):
                    scores[k].append(s)
    return [torch.stack(s).clamp(min=0) for s in scores]


def _blanked(probe: Probe, at: int, pad: int) -> Int[Tensor, "L"]:
    if at < 0:
        return probe.token_ids
    changed = probe.token_ids.clone()
    changed[at] = pad
    return changed
