"""A case of ``rank_process.py``: a learner that meets numbers that are not finite."""

from __future__ import annotations

from dataclasses import replace

import torch

from rlvr.learner.batching import rank_batches
from rlvr.learner.rank import LearnerRank


class Spoiled:
    """Of an objective: the same, with a loss or a gradient that is not finite."""

    def __init__(self, objective, what: str, here: bool) -> None:
        self._objective, self._what, self._here = objective, what, here

    def __getattr__(self, name: str):
        return getattr(self._objective, name)

    def loss(self, logp, batch, coefficients, totals):
        terms = self._objective.loss(logp, batch, coefficients, totals)
        nothing = (logp - logp.detach()).square().sum()
        spoiled = {
            "nan": terms.loss + torch.nan * logp.sum(),
            "loss": terms.loss + torch.inf,  # whose gradient is finite
            "gradient": terms.loss + nothing.sqrt(),  # 0, whose gradient is not
        }[self._what]
        return replace(terms, loss=spoiled) if self._here else terms


def run(rank: int, world: int, config, batches, spoiled: bool) -> dict:
    """Learn from two of ``batches``; before each, with ``spoiled``, skip what spoils all.

    Only the last rank has the number that is not finite.
    """
    learner = LearnerRank(config, torch.device("cpu"), pad_token_id=0)
    sharing = config.learner.sequence_parallel
    objective, reports = learner.objective, []

    def learn(groups, advantages) -> None:
        own = rank_batches(groups, advantages, ranks=world // sharing, groups_per_mini_batch=2)
        learner.load(own[rank // sharing])
        learner.score()
        learner.assign_credit()
        reports.append({k: float(m.value) for k, m in learner.update().items()})

    good, bad = batches
    for (groups, advantages), before in zip(good, (("nan", "loss"), ("gradient",)), strict=True):
        for what in before if spoiled else ():
            here = rank // sharing == world // sharing - 1
            learner.objective = Spoiled(objective, what, here)
            learn(*bad)
            learner.objective = objective
        learn(groups, advantages)
    optimizer = getattr(learner.engine.optimizer, "optimizer", learner.engine.optimizer)
    moments = [t for s in optimizer.state.values() for t in s.values() if torch.is_tensor(t)]
    masters = [p for group in optimizer.param_groups for p in group["params"]]
    tensors = [*moments, *masters, *learner.policy.parameters()]
    tensors = [getattr(t, "ds_tensor", t).detach().float().clone() for t in tensors]
    return {"tensors": tensors, "reports": reports, "inputs": learner.inputs()}
