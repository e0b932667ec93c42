"""Outcome-grounded advantage reshaping (OAR, 2601.07408): what OAR-P and OAR-G share.

A response is seen as ``before`` (prompt) + ``reasoning`` + ``answer``, the last being its own
final answer or, teacher-forced, the gold one; what follows the answer is left out. Both methods
ask how much the outcome, the distribution over answers, hangs on a reasoning token, and turn
these scores s_t into weights. Tokens outside ``reasoning`` keep weight 1, and so do responses
without an extractable answer and groups without spread, at no cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rlvr.algorithm.aggregation import at_least_float32
from rlvr.algorithm.credit.base import Features, Ranks
from rlvr.algorithm.credit.groups import group_index, groups_with_spread
from rlvr.algorithm.registry import require, require_one_of
from rlvr.types import Answers, Group, TokenBatch

MODES = ("last", "answer_mean", "answer_joint")
_CHUNK = 1 << 26  # elements of logits, or of a block of lm_head


def bilevel_weights(
    scores: Float[Tensor, "R"],
    *,
    quantile: float = 0.25,
    beta: float = 1.0,
    floor: float = 0.1,
    preserve_mass: bool = True,
) -> Float[Tensor, "R"]:
    """Weights of one response's reasoning tokens from their scores s_t ≥ 0.

    m = minmax(log1p(s)) and τ = quantile(m, q). Below τ: max(m/τ, floor). From τ on:
    1 + β (m−τ)/(1−τ). Flat scores give 1.

    Args:
        scores: s_t.
        quantile: q.
        beta: how far the most decisive token is raised.
        floor: the least weight before the mass is restored.
        preserve_mass: scale so that Σ w = R.
    """
    if len(scores) == 0:
        return at_least_float32(scores)
    m = at_least_float32(scores).log1p()
    spread = m.max() - m.min()
    if float(spread) == 0:
        return torch.ones_like(m)
    m = (m - m.min()) / spread
    tau = torch.quantile(m, quantile)
    low = (m / tau).clamp(min=floor)  # τ = 0 leaves no token below it
    high = 1 + beta * (m - tau) / (1 - tau) if float(tau) < 1 else torch.ones_like(m)
    weights = torch.where(m < tau, low, high)
    return weights * (len(m) / weights.sum()) if preserve_mass else weights


def outcome_divergence(
    clean: Float[Tensor, "k V"] | Float[Tensor, "k"],
    changed: Float[Tensor, "k V"] | Float[Tensor, "k"],
) -> Float[Tensor, "k"]:
    """KL(clean ‖ changed) of log-distributions, or φ_clean − φ_changed of numbers.

    With d = log p − log q, Σ p d is a small difference of large terms. Σ p (d + e^−d − 1) is the
    same, for Σ p e^−d = Σ q = 1, and no term of it is negative.
    """
    difference = clean - changed
    if clean.dim() == 1:
        return difference
    return (clean.exp() * (difference + torch.expm1(-difference))).sum(-1)


def rank_correlation(x: Float[Tensor, "n"], y: Float[Tensor, "n"]) -> float:
    """Spearman's ρ, with average ranks for ties; NaN if either is flat."""
    a, b = (_average_ranks(z) for z in (x, y))
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a.norm() * b.norm()))


def _average_ranks(x: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    _, inverse, counts = torch.unique(x, return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1) / 2).double()[inverse]


@dataclass
class OarConfig:
    """Options that OAR-P and OAR-G share."""

    name: str = "oar"
    mode: str = "last"  # last | answer_mean | answer_joint: which outcome is compared
    target: str = "own"  # own: the response's answer | reference: the gold answer
    quantile: float = 0.25  # q: the share of reasoning tokens that is damped
    beta: float = 1.0  # how far the most decisive token is raised
    floor: float = 0.1  # least weight before the mass is restored
    preserve_mass: bool = True  # weights of a response's reasoning sum to its length
    tokens_per_chunk: int = 16384  # of the further forward passes
    check_responses: int = 0  # a rank and step, for the rank correlation with exact OAR-P

    def __post_init__(self) -> None:
        """Check ranges."""
        require_one_of("mode", self.mode, MODES)
        require_one_of("target", self.target, ("own", "reference"))
        require(0 <= self.quantile < 1, f"quantile must be in [0, 1), not {self.quantile}")
        require(self.beta >= 0, f"beta must not be negative: {self.beta}")
        require(0 <= self.floor <= 1, f"floor must be in [0, 1], not {self.floor}")
        require(
            self.tokens_per_chunk > 0,
            f"tokens_per_chunk must be positive, not {self.tokens_per_chunk}",
        )
        require(
            self.check_responses >= 0,
            f"check_responses must not be negative: {self.check_responses}",
        )

    def weights(self, scores: Float[Tensor, "R"]) -> Float[Tensor, "R"]:
        """bilevel_weights with these options."""
        return bilevel_weights(
            scores,
            quantile=self.quantile,
            beta=self.beta,
            floor=self.floor,
            preserve_mass=self.preserve_mass,
        )


@dataclass(frozen=True)
class Probe:
    """One response, cut after its answer."""

    sequence: int  # in the batch
    token_ids: Int[Tensor, "L"]
    start: int  # of the reasoning, in token_ids
    reasoning: int  # R
    answer: int  # tokens, the last of token_ids
    first: int  # of the reasoning, on the N axis


def probes(batch: TokenBatch, features: Features, ranks: Ranks, target: str) -> list[Probe]:
    """The responses of this rank that receive weights. Collective.

    Raises ValueError if the batch lacks what ``target`` needs.
    """
    needed = "answer_span" if target == "own" else "reference_answer"
    if batch.answer_span is None or getattr(batch, needed) is None:
        raise ValueError(
            f"OAR with target '{target}' needs the batch's answer_span"
            f"{'' if target == 'own' else ' and reference_answer'}. The verifier of this data "
            f"set does not extract answers; use another credit method."
        )
    index = group_index(batch.group_id, ranks)
    reference = batch.reference_answer if target == "reference" else None
    wanted = groups_with_spread(batch, index, ranks)[index.of_sequence]
    scored = torch.zeros_like(wanted)
    scored[batch.sequence_id[features.scored]] = True
    wanted &= scored & (batch.answer_span[:, 0] > 0)
    length, first = batch.response_length, batch.response_start
    found = []
    for i in torch.nonzero(wanted)[:, 0].tolist():
        whole = batch.input_ids[int(batch.cu_seqlens[i]) : int(batch.cu_seqlens[i + 1])]
        start = int(batch.sequence_length[i] - length[i])
        span, gold = batch.answer_span[i].tolist(), None if reference is None else reference[i]
        found.append(_probe(i, whole, start, span, gold, int(first[i])))
    return [probe for probe in found if probe.answer]


def planned_probes(groups: Sequence[Group], answers: Answers, target: str) -> list[Probe]:
    """``probes`` of a whole rollout batch, as the driver holds it, its responses numbered in
    sample order: these and perhaps some that turn out to need no weights.
    """
    found, first = [], 0
    responses = ((g, r) for g in groups for r in g.responses)
    for i, (group, response) in enumerate(responses):
        start, span = len(group.prompt.token_ids), answers.span[i].tolist()
        if group.has_spread and span[0] > 0:
            whole = torch.tensor([*group.prompt.token_ids, *response.token_ids])
            gold = torch.from_numpy(answers.reference[i]) if target == "reference" else None
            found.append(_probe(i, whole, start, span, gold, first))
        first += len(response.token_ids)
    return [probe for probe in found if probe.answer]


def _probe(
    sequence: int,
    whole: Int[Tensor, "L"],
    start: int,
    span: Sequence[int],
    gold: Int[Tensor, "n"] | None,
    first: int,
) -> Probe:
    """Of a response that starts at ``start`` and whose answer lies in ``span``."""
    begin, end = span
    if gold is None:
        answer = whole[start + begin : start + end]
    else:
        answer = gold[gold >= 0].to(whole.dtype)
    token_ids = torch.cat([whole[: start + begin], answer])
    return Probe(sequence, token_ids, start, begin, len(answer), first)


def portions(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices 0..n−1 in order, cut so that each portion has at most ``budget`` tokens."""
    cut: list[list[int]] = []
    room = 0
    for i, length in enumerate(lengths):
        if length > room or not cut:
            cut.append([])
            room = budget
        cut[-1].append(i)
        room -= length
    return cut


def packed(
    sequences: Sequence[Int[Tensor, "_L"]], first: Sequence[int] | None = None
) -> TokenBatch:
    """A batch for a bare forward pass: no response tokens, nothing known of the sequences.

    ``first`` is the position of each sequence's first token, by default 0.
    """
    device = sequences[0].device
    lengths = torch.tensor([len(s) for s in sequences], device=device)
    cu_seqlens = torch.zeros(len(sequences) + 1, dtype=torch.int32, device=device)
    cu_seqlens[1:] = lengths.cumsum(0)
    nothing = torch.zeros(0, dtype=torch.long, device=device)
    per_sequence = torch.zeros(len(sequences), dtype=torch.long, device=device)
    return TokenBatch(
        input_ids=torch.cat(list(sequences)),
        position_ids=torch.cat(
            [
                torch.arange(begin, begin + len(s), device=device)
                for s, begin in zip(sequences, first or [0] * len(sequences), strict=True)
            ]
        ),
        cu_seqlens=cu_seqlens,
        response_index=nothing,
        sequence_id=nothing,
        logp_rollout=nothing.float(),
        policy_version=nothing,
        reward=per_sequence.float(),
        advantage=per_sequence.float(),
        correct=per_sequence.bool(),
        truncated=per_sequence.bool(),
        group_id=per_sequence,
        mini_batch=per_sequence,
        response_id=per_sequence,
    )


def idle_batch(device: torch.device) -> TokenBatch:
    """For a rank that takes part in a forward pass without having anything to compute."""
    return packed([torch.zeros(2, dtype=torch.long, device=device)])


def outcomes(
    mode: str,
    hidden: Float[Tensor, "T d"],
    batch: TokenBatch,
    answers: Sequence[int],
    head: Float[Tensor, "V d"],
    temperature: float,
) -> Float[Tensor, "k V"] | Float[Tensor, "k"]:
    """The outcome of every sequence, differentiable in ``hidden``.

    Args:
        mode: ``last``: log-distribution at the last position; ``answer_mean``: log-softmax of
            the mean of the logits that predict the answer; ``answer_joint``: φ, the mean
            log-probability of the answer tokens.
        hidden: final states of the packed sequences.
        batch: these sequences.
        answers: number of answer tokens at each sequence's end.
        head: rows of lm_head.
        temperature: divides the logits.
    """
    ends = batch.cu_seqlens[1:].tolist()
    if mode == "answer_joint":
        phi = []
        for end, length in zip(ends, answers, strict=True):
            targets = batch.input_ids[end - length : end]
            phi.append(
                _log_likelihood(hidden[end - length - 1 : end - 1], targets, head, temperature)
                / length
            )
        return torch.stack(phi)
    if mode == "last":
        at = at_least_float32(hidden[[end - 1 for end in ends]])
    else:  # the mean of logits is the logit of the mean state
        spans = zip(ends, answers, strict=True)
        at = torch.stack(
            [at_least_float32(hidden[end - n - 1 : end - 1]).mean(0) for end, n in spans]
        )
    return _logits(at, head, temperature).log_softmax(-1)


def _logits(
    hidden: Float[Tensor, "k d"], head: Float[Tensor, "V d"], temperature: float
) -> Float[Tensor, "k V"]:
    """In float32, from blocks of lm_head: never a float32 copy of the whole of it.

    Differences between two outcomes are small; logits in half precision would drown them.
    """

    def block(h: Tensor, rows: Tensor) -> Tensor:
        return h @ at_least_float32(rows).T / temperature

    blocks = head.split(max(_CHUNK // head.shape[1], 1))
    return torch.cat([checkpoint(block, hidden, b, use_reentrant=False) for b in blocks], dim=1)


def _log_likelihood(
    hidden: Float[Tensor, "a d"],
    targets: Int[Tensor, "a"],
    head: Float[Tensor, "V d"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Σ log p(target), a portion of the logits at a time, in the backward pass too."""

    def portion(h: Tensor, y: Tensor) -> Tensor:
        logits = _logits(at_least_float32(h), head, temperature)
        return -F.cross_entropy(logits, y, reduction="sum")

    rows = max(_CHUNK // len(head), 1)
    parts = zip(hidden.split(rows), targets.split(rows), strict=True)
    return torch.stack([checkpoint(portion, h, y, use_reentrant=False) for h, y in parts]).sum()


def scatter_weights(
    config: OarConfig,
    batch: TokenBatch,
    features: Features,
    found: Sequence[Probe],
    scores: Sequence[Float[Tensor, "_R"]],
) -> Float[Tensor, "N"]:
    """c_t: the weights of every probe's reasoning tokens, 1 elsewhere."""
    coefficients = torch.ones_like(at_least_float32(features.logp))
    for probe, s in zip(found, scores, strict=True):
        span = slice(probe.first, probe.first + probe.reasoning)
        coefficients[span] = config.weights(s).to(coefficients.dtype)
    return coefficients


def mean_rank_correlation(
    scores: Sequence[Float[Tensor, "_R"]], exact: Sequence[Float[Tensor, "_R"]], ranks: Ranks
) -> dict[str, float]:
    """Mean of Spearman's ρ over responses and ranks; empty if there is none. Collective."""
    rho = [rank_correlation(s, e) for s, e in zip(scores, exact, strict=False)]
    rho = [r for r in rho if r == r]
    total = ranks.all_reduce(torch.tensor([sum(rho), len(rho)], dtype=torch.float64))
    return {"rank_correlation": float(total[0] / total[1])} if total[1] else {}
