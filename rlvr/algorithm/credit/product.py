"""The product of several methods: what each of them takes for important must be so for all."""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import or_
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rlvr.algorithm.credit.base import CREDITS, Credit, CreditAssigner, Driver, Features, Ranks
from rlvr.algorithm.credit.diagnostics import coefficient_metrics
from rlvr.algorithm.credit.shadow import prepared
from rlvr.registry import labelled, require
from rlvr.types import CreditInputs, Group, TokenBatch

PerToken = Float[Tensor, "N"]


@CREDITS.register("product")
@dataclass
class Product:
    """c_t = κ ∏_m c_t^m, with κ = ∏_m mean|c^m| / mean|∏_m c^m|.

    The means are over the tokens with A ≠ 0 of the whole rollout batch, so that the product is as
    large on the average as if its methods had nothing to do with each other: it has mean 1 if each
    has, and beside a method that keeps a fifth of the tokens the mean of that one. One method
    alone, or beside ``uniform``, is what it is without. Every method has what it prepared and what
    it keeps in checkpoints, and sees the tokens that any of them asks for.
    """

    # By name, or with options: [delta, {name: thr, p: 0.2}]
    of: list[Any] = field(default_factory=lambda: ["delta", "entropy_top"])
    normalise: bool = True  # else κ = 1

    def __post_init__(self) -> None:
        require(len(self.of) > 0, "of names no method")
        self.members: dict[str, CreditAssigner] = {}
        for number, member in enumerate(self.of):
            label, node = labelled(member, f"of[{number}]")
            require(label not in self.members, f"of[{number}]: {label} is there twice")
            self.members[label] = CREDITS.build(node, f"of[{number}]")
        self.needs = reduce(or_, (member.needs for member in self.members.values()))
        self.advantage_only = bool(self._that("advantage_only"))
        signed = self._that("signed")
        require(len(signed) < 2, f"{' and '.join(signed)} are an advantage each; of can have one")
        self.signed = bool(signed)
        self.state: dict[str, Any] = {}  # of each member, by its label

    async def prepare(self, groups: Sequence[Group], driver: Driver) -> CreditInputs:
        return await prepared(self.members, groups, driver) or CreditInputs()

    @torch.no_grad()
    def assign(self, batch: TokenBatch, features: Features, ranks: Ranks) -> Credit:
        factors: list[PerToken] = []
        metrics: dict[str, float] = {}
        for label, member in self.members.items():
            kept = getattr(member, "state", None)
            if kept is not None:
                kept.clear()
                kept.update(deepcopy(self.state.get(label, {})))
            own = replace(batch, inputs=batch.inputs.of(label))
            credit = member.assign(own, features, ranks)
            if kept is not None:
                self.state[label] = deepcopy(kept)
            metrics |= {f"{label}/{name}": value for name, value in credit.metrics.items()}
            factors.append(credit.coefficients.to(features.logp.device))
        product = torch.stack(factors).prod(0)
        if self.normalise:
            product = product * _scale(factors, product, batch, ranks)
        metrics |= coefficient_metrics(product, batch.token_advantage, ranks)
        return Credit(product, metrics)

    def _that(self, trait: str) -> list[str]:
        return [label for label, member in self.members.items() if getattr(member, trait, False)]


def _scale(
    factors: Sequence[PerToken], product: PerToken, batch: TokenBatch, ranks: Ranks
) -> float:
    """κ; 1 where the product is 0 everywhere. Collective."""
    counted = batch.token_advantage != 0
    sizes = [c[counted].double().abs().sum() for c in (*factors, product)]
    count, *means, mean = ranks.all_reduce(torch.stack([counted.sum().double(), *sizes])).tolist()
    if not mean:
        return 1.0
    return math.prod(m / count for m in means) / (mean / count)
