"""Optimal token baseline (2602.07078): at every position the baseline of least gradient variance.

With G_i the reward of response i and π_t the old policy's next-token distribution, the energy of a
token is the squared length of the gradient of log π_t(y_t) in the logits, and W its sum up to t:

    w_{i,t} = ‖onehot(y_t) − π_t‖² = 1 − 2 π_t(y_t) + Σ_v π_t(v)²,    W_{i,t} = Σ_{j≤t} w_{i,j}
    B_t = Σ_i G_i W_{i,t} / (Σ_i W_{i,t} + 1e-8) over the responses of the group that reach t

and the advantage is A_t = G_i − B_t, so that c_t = (G_i − B_t)/A_i, which may be negative (1 where
A_i = 0). ``advantage=unit`` is the method as published. Under another one whose A_i is 0 in groups
without spread the gradient is the same; only, responses with A_i = 0 in the other groups (graded
rewards) count nowhere. A group of one response has B = 0. An off-policy correction does not
rescale W, as it may in verl.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rlvr.algorithm.aggregation import at_least_float32, segment_sum
from rlvr.algorithm.credit.base import CREDITS, Credit, Features, Needs, Ranks
from rlvr.algorithm.credit.diagnostics import coefficient_metrics
from rlvr.algorithm.credit.groups import GroupedResponses
from rlvr.types import TokenBatch

PerToken = Float[Tensor, "N"]

_CHUNK = 1 << 26  # elements of logits
_EPS = 1e-8  # of the denominator


@CREDITS.register("otb")
@dataclass
class Otb:
    """(G_i − B_t) / A_i."""

    zero_tail: bool = False  # B = 0 where one response alone is left of its group; else G_i nearly

    needs = Needs.HIDDEN
    advantage_only = True
    signed = True

    @torch.no_grad()
    def assign(self, batch: TokenBatch, features: Features, ranks: Ranks) -> Credit:
        groups = GroupedResponses.of(batch, features, ranks)
        baseline = self.baselines(energies(batch, features), groups, batch, features, ranks)
        like = at_least_float32(features.logp)
        advantage = batch.token_advantage.to(like)
        own = (batch.reward.double()[batch.sequence_id] - baseline).to(like)
        known = features.scored & (advantage != 0)
        coefficients = torch.where(known, own / advantage, 1.0)
        metrics = coefficient_metrics(coefficients, batch.token_advantage, ranks)
        return Credit(coefficients, metrics)

    def baselines(
        self,
        energy: PerToken,
        groups: GroupedResponses,
        batch: TokenBatch,
        features: Features,
        ranks: Ranks,
    ) -> PerToken:
        """B_t of every token, float64, from w_t. Collective."""
        sequence = batch.sequence_id
        total = torch.cat([energy.new_zeros(1), energy.cumsum(0)])
        cumulative = total[1:] - total[batch.response_start][sequence]
        position = torch.arange(len(sequence), device=sequence.device)
        position = position - batch.response_start[sequence]
        length = batch.response_length.amax() if len(batch.response_length) else position.sum()
        longest = int(ranks.all_reduce(length, "max"))
        place = groups.group[sequence] * longest + position
        member = features.scored.double()
        columns = [
            batch.reward.double()[sequence] * cumulative * member,
            cumulative * member,
            member,
        ]
        count = len(groups.split) * longest
        sums = ranks.all_reduce(segment_sum(torch.stack(columns, 1), place, count))
        weighted, weight, responses = sums[place].unbind(1)
        size = ranks.all_reduce(
            torch.bincount(groups.group[groups.member], minlength=len(groups.split))
        )[groups.group][sequence]
        alone = (responses == 1) if self.zero_tail else (size == 1)
        return torch.where(alone, 0.0, weighted / (weight + _EPS))


def energies(batch: TokenBatch, features: Features) -> PerToken:
    """w_t, float64; 0 where features were not kept. The logits exist for one chunk at a time.

    As (1 − π_t(y_t))² + Σ_{v≠y_t} π_t(v)², from the other tokens alone: of a sure token
    1 − 2π + Σπ² is the rounding of a difference, negative too, and a baseline is a ratio of these.
    """
    energy = torch.zeros(len(features.logp), dtype=torch.float64, device=features.logp.device)
    target = batch.target
    with features.policy.head() as head:
        rows = max(_CHUNK // len(head), 1)
        for n, hidden in features.hidden():
            for part, h in zip(n.split(rows), hidden.split(rows), strict=True):
                logits = at_least_float32(h @ head.T) / features.temperature
                normaliser = logits.logsumexp(-1)
                logits.scatter_(1, target[part, None], -torch.inf)
                rest = (logits.logsumexp(-1) - normaliser).double()
                squares = ((2 * logits).logsumexp(-1) - 2 * normaliser).double()
                energy[part] = (2 * rest).exp() + squares.exp()
    return energy
