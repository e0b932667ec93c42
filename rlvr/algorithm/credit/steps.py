"""Advantages of the steps of a response, from the values of its beginnings: what is shared.

A response is cut at s_0 < s_1 < … < s_{m−1}. The value of the beginning that ends before s_j is the
mean reward of K responses that the policy samples on from it, through the rollout workers:

    V_j = (1/K) Σ_k R(first s_j tokens, continuation k)
    Δ_j = V_{j+1} − V_j, and R − V_{m−1} for the last step

and Δ_j is the advantage of the tokens [s_j, s_{j+1}); of those before s_0 it is 0. The update
multiplies by A_i, so that c_t = Δ/A_i, which may be negative: A_t = A_i · c_t is Δ. Where A_i = 0
there is no such c_t, and the response has no gradient. Hence ``advantage=unit``, A_i = 1, is the
method as published, where a response teaches although all of its group are right or wrong. Under
another advantage those are left out, and ``strength`` leads from it to here:
A_t = (1 − s) A_i + s Δ.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlvr.algorithm.aggregation import at_least_float32
from rlvr.algorithm.credit.base import Credit, Driver, Features, Needs, Prefix, Ranks
from rlvr.algorithm.credit.diagnostics import coefficient_metrics
from rlvr.registry import require
from rlvr.types import CreditInputs, Group, Sample, TokenBatch

PerToken = Float[Tensor, "N"]

_ADVANTAGE = "step_advantage"  # float32 [N]: Δ of the step that a token belongs to
_STEPS = "steps"  # float32 [S]: values that were asked for


@dataclass
class StepAdvantages(ABC):
    """What the methods share: all but where a response is cut."""

    samples: int = 9  # K, of every beginning; equal ones are sampled from once
    equal_groups: bool = True  # false: no values, and Δ = 0, where all rewards of a group are equal

    needs = Needs.NONE
    advantage_only = True
    signed = True

    def __post_init__(self) -> None:
        require(self.samples >= 1, f"samples must be at least 1, not {self.samples}")

    @abstractmethod
    def expected_steps(self, length: float) -> float:
        """How many steps a response of so many tokens may have, for a plan."""

    @abstractmethod
    def cuts(self, sample: Sample, driver: Driver) -> list[int]:
        """s_0 … s_{m−1}, ascending places among the response's tokens."""

    async def prepare(self, groups: Sequence[Group], driver: Driver) -> CreditInputs:
        """Δ of every token, float32 [N]."""
        prefixes: list[Prefix] = []
        known: dict[tuple[int, bytes], int] = {}  # places there, by the prompt's and the token ids
        cut: list[tuple[Sample, list[int], list[int]]] = []  # where, and which prefix ends there
        for g, group in enumerate(groups):
            for sample in group.samples:
                ids, places = sample.response.token_ids, []
                cuts = self.cuts(sample, driver) if self.equal_groups or group.has_spread else []
                for t in cuts:
                    place = known.setdefault((g, ids[:t].tobytes()), len(prefixes))
                    if place == len(prefixes):
                        prefixes.append(Prefix(group.prompt, ids[:t].tolist()))
                    places.append(place)
                cut.append((sample, cuts, places))
        rewards = await driver.values(prefixes, self.samples) if prefixes else []
        values = [float(own.mean()) for own in rewards]
        deltas = [
            step_advantages(
                cuts,
                [values[p] for p in places],
                float(sample.verdict.reward),
                len(sample.response.token_ids),
            )
            for sample, cuts, places in cut
        ]
        counts = torch.tensor([float(len(cuts)) for _, cuts, _ in cut])
        return CreditInputs({_STEPS: counts}, {_ADVANTAGE: torch.cat([torch.zeros(0), *deltas])})

    @torch.no_grad()
    def assign(self, batch: TokenBatch, features: Features, ranks: Ranks) -> Credit:
        """c_t = Δ/A_i; 1 where A_i = 0."""
        like = at_least_float32(features.logp)
        delta = self.advantages(batch.inputs.token[_ADVANTAGE].to(like), batch, features, ranks)
        advantage = batch.token_advantage.to(like)
        coefficients = torch.where(advantage != 0, delta / advantage, 1.0)
        metrics = coefficient_metrics(coefficients, batch.token_advantage, ranks)
        steps = batch.inputs.sequence[_STEPS].double()
        total, count = ranks.all_reduce(torch.stack([steps.sum(), torch.ones_like(steps).sum()]))
        if count:
            metrics["steps_per_response"] = float(total / count)
        return Credit(coefficients, metrics)

    def advantages(
        self, delta: PerToken, batch: TokenBatch, features: Features, ranks: Ranks
    ) -> PerToken:
        """What becomes of Δ on the ranks. Collective."""
        return delta


def step_advantages(
    cuts: Sequence[int], values: Sequence[float], reward: float, length: int
) -> Float[Tensor, "length"]:
    """Δ of the step of each token: ``values`` are those of what ends before each of ``cuts``."""
    delta = torch.zeros(length)
    if not cuts:
        return delta
    after, ends = [*values[1:], reward], [*cuts[1:], length]
    for begin, end, value, later in zip(cuts, ends, values, after, strict=True):
        delta[begin:end] = later - value
    return delta


def whitened(x: PerToken, counted: Bool[Tensor, "N"], ranks: Ranks) -> PerToken:
    """(x − mean) / √(variance + 1e-8), both over what is ``counted`` on all ranks. Collective."""
    own = x[counted].double()
    count, total = ranks.all_reduce(torch.stack([torch.ones_like(own).sum(), own.sum()]))
    mean = total / count.clamp(min=1)
    variance = ranks.all_reduce((own - mean).square().sum()) / (count - 1).clamp(min=1)
    return ((x - mean) / (variance + 1e-8).sqrt()).to(x.dtype)
