"""Credit on a rank: the method in use, its shadows, and how they agree."""

import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlvr.algorithm.credit import CreditAssigner, Features, Needs, Ranks
from rlvr.algorithm.credit.agreement import correlation, gradient_cosines
from rlvr.algorithm.credit.shadow import room
from rlvr.algorithm.metrics import Max, Mean, Metric
from rlvr.learner.features import JoinedFeatures, ScoringFeatures
from rlvr.types import IN_USE, TokenBatch

Report = dict[str, Metric]
Members = Bool[Tensor, "S"]
PerToken = Float[Tensor, "N"]


class CreditStage:
    """Credit methods by their labels: that in use, and those computed beside it.

    Whatever the shadows are, the method in use gets what it would get alone.

    Args:
        methods: that in use under ``IN_USE``, first of all.
        ranks: the data-parallel ranks.
        device: of the policy.
    """

    def __init__(
        self, methods: Mapping[str, CreditAssigner], ranks: Ranks, device: torch.device
    ) -> None:
        self.methods = methods
        self.needs = methods[IN_USE].needs
        self.shadows = [label for label in methods if label != IN_USE]
        self._ranks = ranks
        self._device = device
        self._generators = [device] if device.type == "cuda" else []  # beside the CPU's
        self._features: dict[str, Features] = {}
        self._reached: JoinedFeatures | None = None  # all that can receive a gradient

    def seen(self, active: Members, label: str = IN_USE) -> Members:
        """Sequences whose tokens a method is to see, of which the ``active`` have a gradient."""
        every = Needs.EVERY_TOKEN in self.methods[label].needs
        return torch.ones_like(active) if every else active

    def seen_by_any(self, active: Members) -> Members:
        """The same of all methods and of what compares them."""
        return torch.stack([active, *(self.seen(active, label) for label in self.methods)]).any(0)

    def kept(self, active: Members) -> Members | None:
        """Sequences of whose tokens hidden states are needed; None if there is no use for them.

        What compares gradients needs those of all that can receive one.
        """
        users = [label for label, m in self.methods.items() if Needs.HIDDEN in m.needs]
        wanted = [self.seen(active, label) for label in users] + [active] * bool(self.shadows)
        return torch.stack(wanted).any(0) if wanted else None

    def take(self, passes: Sequence[ScoringFeatures], active: Members, batch: TokenBatch) -> None:
        """Lend the methods what the scoring passes kept; the first was for that in use alone."""
        self._features = {IN_USE: passes[0]}
        if self.shadows:
            self._reached = JoinedFeatures(passes, active[batch.sequence_id])
        for label in self.shadows:
            seen = self.seen(active, label)[batch.sequence_id]
            self._features[label] = JoinedFeatures(passes, seen)

    def assign(self, batch: TokenBatch) -> tuple[Report, dict[str, PerToken]]:
        """What there is to report, and c_t by every method; gives the features back. Collective."""
        report, own = self._assigned(IN_USE, batch)
        found = {IN_USE: own}
        with torch.random.fork_rng(self._generators, enabled=bool(self.shadows)):
            for label in self.shadows:
                told, found[label] = self._assigned(label, batch)
                report |= told
        if self.shadows:
            report |= self._agreement(batch, found)
        self._features, self._reached = {}, None  # hidden states are the largest thing in memory
        return report, found

    def tried(self, batch: TokenBatch) -> tuple[Report, dict[str, PerToken]]:
        """What ``assign`` would find, with the methods and every generator left as they were."""
        states = [getattr(method, "state", {}) for method in self.methods.values()]
        before = deepcopy(states)
        with torch.random.fork_rng(self._generators):
            answer = self.assign(batch)
        for state, old in zip(states, before, strict=True):
            state.clear()
            state.update(old)
        return answer

    def _assigned(self, label: str, batch: TokenBatch) -> tuple[Report, PerToken]:
        own = replace(batch, inputs=batch.inputs.of(label))
        began = self._now()
        credit = self.methods[label].assign(own, self._features[label], self._ranks)
        coefficients = credit.coefficients.to(self._device)
        report: Report = {f"{room(label)}/{k}": Mean(v, 1.0) for k, v in credit.metrics.items()}
        return report | {f"{room(label)}/assign_s": Max(self._now() - began)}, coefficients

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _agreement(self, batch: TokenBatch, found: Mapping[str, PerToken]) -> Report:
        """Of each shadow with the method in use; what is not defined is left out."""
        assert self._reached is not None
        advantage = batch.token_advantage
        weights = [advantage * c for c in found.values()]
        cosines = gradient_cosines(weights, batch, self._reached, self._ranks)
        told: dict[str, float | None] = {}
        for label, cosine in zip(self.shadows, cosines, strict=True):
            rho = correlation(found[IN_USE], found[label], advantage != 0, self._ranks)
            told |= {f"{label}/correlation": rho, f"{label}/gradient_cosine": cosine}
        return {f"shadow/{name}": Mean(v, 1.0) for name, v in told.items() if v is not None}
