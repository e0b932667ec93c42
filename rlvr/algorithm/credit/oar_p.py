"""OAR-P: how far the outcome moves when a reasoning token is blanked out, one at a time.

For every reasoning position t the token is replaced by PAD (its position kept and attended to),
one forward pass without a gradient, and s_t = KL(p_clean ‖ p_t). R passes over a response:
``stride`` and ``max_positions`` score some positions and interpolate between them.

``engine: rollout`` asks the rollout workers, whose prefix cache keeps what comes before t, instead
of the learner. They tell the log-probabilities of the ``top_tokens`` most probable tokens of the
clean outcome, in it and in the changed ones; all other tokens count as one. KL over such a coarser
set of outcomes is never larger than the exact one, and is the same if ``top_tokens`` covers the
vocabulary. ``check_responses`` reports the rank correlation with the exact scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlvr.algorithm.credit.base import (
    CREDITS,
    Credit,
    Features,
    Inquiry,
    Needs,
    Question,
    Ranks,
)
from rlvr.algorithm.credit.diagnostics import coefficient_metrics
from rlvr.algorithm.credit.oar import (
    OarConfig,
    Probe,
    idle_batch,
    mean_rank_correlation,
    outcome_divergence,
    outcomes,
    packed,
    planned_probes,
    probes,
    scatter_weights,
)
from rlvr.algorithm.registry import require, require_one_of
from rlvr.types import Answers, Group, TokenBatch

_KEYS_PER_TOKEN = 8  # keys that take as much memory as what a token needs in one layer
_NOTHING = 1e-6  # probability that a float32 sum of others cannot tell from 0


@dataclass
class OarPConfig(OarConfig):
    """Options of ``credit=oar_p``."""

    name: str = "oar_p"
    mode: str = "last"
    stride: int = 1  # score every n-th reasoning position (and the last)
    max_positions: int | None = None  # a response, evenly spread
    engine: str = "learner"  # learner | rollout: who computes the outcomes
    top_tokens: int = 128  # of an outcome that the rollout engines tell apart

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        require(self.stride >= 1, f"stride must be at least 1, not {self.stride}")
        require(
            self.max_positions is None or self.max_positions >= 2,
            f"max_positions must be at least 2 or null, not {self.max_positions}",
        )
        require_one_of("engine", self.engine, ("learner", "rollout"))
        require(
            self.engine == "learner" or self.mode == "last",
            f"engine=rollout needs mode=last, not {self.mode}: vLLM gives the log-probabilities of "
            "tokens inside a sequence without temperature and without its prefix cache. Set "
            "engine=learner",
        )
        require(
            1 <= self.top_tokens <= 128,
            f"top_tokens must be from 1 to 128, vLLM's bound, not {self.top_tokens}",
        )


@CREDITS.register("oar_p", OarPConfig)
class OarP:
    """Bi-level weights of the perturbation scores."""

    def __init__(self, config: OarPConfig) -> None:
        self.config = config
        self.needs = Needs.ANSWER
        if config.engine == "rollout":
            self.needs |= Needs.TOKEN_SCORES
        if config.engine == "learner" or config.check_responses:
            self.needs |= Needs.EMBEDDINGS

    def inquire(
        self, groups: Sequence[Group], answers: Answers | None, pad_token_id: int, longest: int
    ) -> Inquiry:
        """s_t of the chosen positions, all clean responses before the first blanked one.

        Late positions come first: what follows shares their prefix with them.
        """
        options = self.config
        assert answers is not None  # Needs.ANSWER
        planned = planned_probes(groups, answers, options.target)
        planned = [p for p in planned if len(p.token_ids) <= longest]
        positions = [self._positions(p).flip(0) for p in planned]
        clean = yield [Question(p.token_ids.tolist(), options.top_tokens) for p in planned]
        replies = yield (
            Question(_blanked(p, p.start + t, pad_token_id).tolist(), before.token_ids.tolist())
            for p, at, before in zip(planned, positions, clean, strict=True)
            for t in at.tolist()
        )
        after = iter(replies)
        tokens = sum(len(r.token_ids) for g in groups for r in g.responses)
        scores = torch.full((tokens,), torch.nan)
        for p, at, before in zip(planned, positions, clean, strict=True):
            changed = torch.stack([torch.tensor(next(after).logp) for _ in at])
            scores[p.first + at] = coarse_divergence(torch.tensor(before.logp), changed)
        return scores

    @torch.no_grad()
    def assign(self, batch: TokenBatch, features: Features, ranks: Ranks) -> Credit:
        """w_t of the reasoning tokens, 1 elsewhere."""
        options = self.config
        found = probes(batch, features, ranks, options.target)
        positions = [self._positions(p) for p in found]
        if options.engine == "rollout":
            some, told = told_scores(found, positions, batch, ranks)
        else:
            some, told = perturbation_scores(options, found, positions, batch, features, ranks), {}
        scores = [
            interpolated(s, at, p.reasoning)
            for s, at, p in zip(some, positions, found, strict=True)
        ]
        coefficients = scatter_weights(options, batch, features, found, scores)
        metrics = told | coefficient_metrics(coefficients, batch.token_advantage, ranks)
        if options.check_responses:
            exact = exact_scores(options, found, batch, features, ranks)
            metrics |= mean_rank_correlation(scores, exact, ranks)
        return Credit(coefficients, metrics)

    def _positions(self, probe: Probe) -> Int[Tensor, "k"]:
        return chosen_positions(probe.reasoning, self.config.stride, self.config.max_positions)


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


def coarse_divergence(
    clean: Float[Tensor, "K"], changed: Float[Tensor, "k K"]
) -> Float[Tensor, "k"]:
    """KL(clean ‖ changed) over K tokens and, as one further outcome, all others.

    Args:
        clean: log-probabilities of the K tokens, any share of the whole.
        changed: of the same tokens, in other distributions.
    """
    p, q = clean.double(), changed.double()
    rest_p, rest_q = ((1 - x.exp().sum(-1, True)).clamp(min=_NOTHING).log() for x in (p, q))
    p = torch.cat([p, rest_p], -1).expand(len(q), -1)
    return outcome_divergence(p, torch.cat([q, rest_q], -1)).float()


def told_scores(
    found: Sequence[Probe], positions: Sequence[Int[Tensor, "_k"]], batch: TokenBatch, ranks: Ranks
) -> tuple[list[Float[Tensor, "_k"]], dict[str, float]]:
    """s_t that the rollout engines told, and the share of responses that were too long for them.

    These have flat scores, hence weights of 1. Collective.
    """
    assert batch.token_score is not None  # Needs.TOKEN_SCORES
    told = [batch.token_score[p.first + at] for p, at in zip(found, positions, strict=True)]
    silent = sum(bool(s.isnan().any()) for s in told)
    too_long, asked = ranks.all_reduce(torch.tensor([silent, len(found)])).tolist()
    return [s.nan_to_num() for s in told], {"too_long_to_score": too_long / max(asked, 1)}


def exact_scores(
    config: OarConfig, found: Sequence[Probe], batch: TokenBatch, features: Features, ranks: Ranks
) -> list[Float[Tensor, "_R"]]:
    """s_t of the first ``check_responses`` probes at every position. Collective."""
    sample = found[: config.check_responses]
    everywhere = [torch.arange(p.reasoning) for p in sample]
    return perturbation_scores(config, sample, everywhere, batch, features, ranks)


@torch.no_grad()
def perturbation_scores(
    config: OarConfig,
    found: Sequence[Probe],
    positions: Sequence[Int[Tensor, "_k"]],
    batch: TokenBatch,
    features: Features,
    ranks: Ranks,
) -> list[Float[Tensor, "_k"]]:
    """s_t at the given reasoning positions of every probe. Collective.

    A response is packed together with its variants, which hold no more than the tokens from t
    on: what comes before is the same and they attend to it there.
    """
    policy, device = features.policy, batch.input_ids.device
    chunks = shared_portions(found, positions, config.tokens_per_chunk)
    rounds = int(ranks.all_reduce(torch.tensor(len(chunks)), "max"))
    scores: list[list[Tensor]] = [[] for _ in found]
    with policy.head() as head:
        for r in range(rounds):
            if r >= len(chunks):
                idle = idle_batch(device)
                policy.hidden(policy.embed(idle.input_ids), idle)
                continue
            packing, prefix, members = _shared(found, chunks[r], policy.pad_token_id)
            hidden = policy.hidden(policy.embed(packing.input_ids), packing, prefix)
            answers = [found[k].answer for k, _ in members]
            result = outcomes(config.mode, hidden, packing, answers, head, features.temperature)
            clean = [i for i, (_, t) in enumerate(members) if t is None]
            for begin, end in zip(clean, [*clean[1:], len(members)], strict=True):
                reference = result[begin].expand_as(result[begin + 1 : end])
                scores[members[begin][0]] += outcome_divergence(reference, result[begin + 1 : end])
    return [torch.stack(s).clamp(min=0) for s in scores]


def shared_portions(
    found: Sequence[Probe], positions: Sequence[Int[Tensor, "_k"]], budget: int
) -> list[list[tuple[int, int]]]:
    """(probe, position) of all variants in order, cut so that each portion costs ``budget``.

    A variant costs the tokens from its position on and some more for the keys before them; a
    portion has every response of which it has variants.
    """
    cut: list[list[tuple[int, int]]] = []
    room = 0
    for k, probe in enumerate(found):
        whole = len(probe.token_ids)
        for t in positions[k].tolist():
            own = whole - probe.start - t + whole // _KEYS_PER_TOKEN
            joins = bool(cut) and cut[-1][-1][0] == k
            if room < own + (0 if joins else whole):
                cut.append([])
                room, joins = budget, False
            cut[-1].append((k, t))
            room -= own + (0 if joins else whole)
    return cut


def _shared(
    found: Sequence[Probe], variants: Sequence[tuple[int, int]], pad: int
) -> tuple[TokenBatch, Int[Tensor, "S 2"], list[tuple[int, int | None]]]:
    """Responses, each followed by its variants; what these continue; which probe and position."""
    sequences: list[Tensor] = []
    members: list[tuple[int, int | None]] = []
    first, prefix = [], []
    end = begin = 0  # of T so far; of the response
    for k, t in variants:
        probe = found[k]
        if not members or members[-1][0] != k:
            sequences.append(probe.token_ids)
            members.append((k, None))
            first.append(0)
            prefix.append([end, end])
            begin, end = end, end + len(probe.token_ids)
        at = probe.start + t
        sequences.append(_blanked(probe, at, pad)[at:])
        members.append((k, t))
        first.append(at)
        prefix.append([begin, begin + at])
        end += len(sequences[-1])
    device = sequences[0].device
    return packed(sequences, first), torch.tensor(prefix, device=device), members


def _blanked(probe: Probe, at: int, pad: int) -> Int[Tensor, "L"]:
    changed = probe.token_ids.clone()
    changed[at] = pad
    return changed
