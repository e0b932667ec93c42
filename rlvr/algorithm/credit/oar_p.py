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

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlvr.algorithm.credit.base import CREDITS, Driver, Features, Needs, Question, Ranks
from rlvr.algorithm.credit.oar import Oar, Scores
from rlvr.algorithm.credit.oar_outcome import outcome_divergence
from rlvr.algorithm.credit.oar_segments import Segments, planned_segments
from rlvr.registry import require, require_one_of
from rlvr.types import CreditInputs, Group, TokenBatch, samples_of

_TOLD = "told_scores"  # float32 [N]: s_t by the rollout workers; NaN: not asked
_NOTHING = 1e-6  # probability that a float32 sum of others cannot tell from 0


@CREDITS.register("oar_p")
@dataclass
class OarP(Oar):
    """Bi-level weights of the perturbation scores."""

    stride: int = 1  # score every n-th reasoning position (and the last)
    max_positions: int | None = None  # a response, evenly spread
    engine: str = "learner"  # learner | rollout: who computes the outcomes
    top_tokens: int = 128  # of an outcome that the rollout engines tell apart

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.stride >= 1, f"stride must be at least 1, not {self.stride}")
        require(
            self.max_positions is None or self.max_positions >= 2,
            f"max_positions must be at least 2 or null, not {self.max_positions}",
        )
        require_one_of("engine", self.engine, ("learner", "rollout"))
        require(
            self.engine == "learner" or self.mode in ("first", "last"),
            f"engine=rollout needs mode first or last, not {self.mode}: vLLM gives the "
            "log-probabilities of tokens inside a sequence without temperature and without its "
            "prefix cache. Set engine=learner",
        )
        require(
            1 <= self.top_tokens <= 128,
            f"top_tokens must be from 1 to 128, vLLM's bound, not {self.top_tokens}",
        )
        on_learner = self.engine == "learner" or self.check_responses
        self.needs = Needs.EMBEDDINGS if on_learner else Needs.NONE

    async def prepare(self, groups: Sequence[Group], driver: Driver) -> CreditInputs:
        """Where the answers lie, and with ``engine: rollout`` s_t of the chosen positions.

        All clean responses are asked about before the first blanked one. Late positions come
        first: what follows shares their prefix with them.
        """
        inputs = await super().prepare(groups, driver)
        if self.engine == "learner":
            return inputs
        planned = planned_segments(groups, inputs, self.target)
        planned = [p for p in planned if len(p.token_ids) <= driver.longest]
        positions = [self._positions(p).flip(0) for p in planned]
        clean = await driver.ask(self._question(p, p.token_ids, self.top_tokens) for p in planned)
        replies = await driver.ask(
            self._question(p, p.blanked(t, driver.pad_token_id), before.token_ids.tolist())
            for p, at, before in zip(planned, positions, clean, strict=True)
            for t in at.tolist()
        )
        after = iter(replies)
        tokens = sum(len(s.response.token_ids) for s in samples_of(groups))
        scores = torch.full((tokens,), torch.nan)
        for p, at, before in zip(planned, positions, clean, strict=True):
            changed = torch.stack([torch.tensor(next(after).logp) for _ in at])
            scores[p.first + at] = coarse_divergence(torch.tensor(before.logp), changed)
        return CreditInputs(inputs.sequence, {_TOLD: scores})

    def scores(
        self, found: Sequence[Segments], batch: TokenBatch, features: Features, ranks: Ranks
    ) -> tuple[Scores, dict[str, float]]:
        positions = [self._positions(p) for p in found]
        if self.engine == "rollout":
            some, metrics = told_scores(found, positions, batch.inputs.token[_TOLD], ranks)
        else:
            some, metrics = self.perturbation_scores(found, positions, features, ranks), {}
        each = zip(some, positions, found, strict=True)
        return [interpolated(s, at, p.reasoning) for s, at, p in each], metrics

    def _question(
        self, part: Segments, token_ids: Int[Tensor, "L"], choices: int | list[int]
    ) -> Question:
        """What comes next where this mode reads."""
        end = len(token_ids) - (part.answer if self.mode == "first" else 0)
        return Question(token_ids[:end].tolist(), choices)

    def _positions(self, part: Segments) -> Int[Tensor, "k"]:
        return chosen_positions(part.reasoning, self.stride, self.max_positions)


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
    found: Sequence[Segments],
    positions: Sequence[Int[Tensor, "_k"]],
    told: Float[Tensor, "N"],
    ranks: Ranks,
) -> tuple[Scores, dict[str, float]]:
    """s_t that the rollout engines told, and the share of responses that were too long for them.

    These have flat scores, hence weights of 1. Collective.
    """
    scores = [told[p.first + at] for p, at in zip(found, positions, strict=True)]
    silent = sum(bool(s.isnan().any()) for s in scores)
    too_long, asked = ranks.all_reduce(torch.tensor([silent, len(found)])).tolist()
    return [s.nan_to_num() for s in scores], {"too_long_to_score": too_long / max(asked, 1)}
