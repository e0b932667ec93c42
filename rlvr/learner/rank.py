"""One rank of the learner: score, assign credit, update. No Ray in here."""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from rlvr.algorithm.aggregation import token_mean
from rlvr.algorithm.metrics import Max, Mean, summed
from rlvr.algorithm.objectives import OBJECTIVES, SelectingObjective
from rlvr.algorithm.objectives.base import PerToken, Scalar
from rlvr.config import RunConfig
from rlvr.learner.engine import start_engine, start_reference, take_step
from rlvr.learner.lora import Base
from rlvr.learner.policy import load_policy
from rlvr.learner.schedule import learning_rate
from rlvr.learner.scoring import Places, Report, ScoringRank
from rlvr.learner.sequence_parallel import sequence_parallel
from rlvr.learner.skipped import UpdateInputs, told_by_gradient
from rlvr.learner.totals import count_groups
from rlvr.types import TokenBatch, Totals


class LearnerRank(ScoringRank):
    """The policy's shard on one device, and the three stages of a training step on it."""

    def __init__(self, config: RunConfig, device: torch.device, pad_token_id: int) -> None:
        sequence = sequence_parallel(config.learner.sequence_parallel)
        setting = config.model, config.learner, config.rollout.temperature, device, sequence
        policy = load_policy(*setting, seed=config.train.seed)
        engine = start_engine(policy, config.learner, config.model)
        reference: Any = None
        if OBJECTIVES.build(config.objective, "objective").needs_reference:
            if config.learner.lora.rank:
                reference = Base(engine, policy.model)
            else:
                reference = start_reference(load_policy(*setting), config.learner, config.model)
        super().__init__(config, device, pad_token_id, policy, engine, reference)
        self.steps = 0  # optimizer steps taken
        self.skipped: list[int] = []  # mini-batches of the current batch, whose steps were not
        self.skipped_in_a_row = 0  # optimizer steps since the last one taken

    def load(self, batch: TokenBatch) -> None:
        super().load(batch)
        self.skipped = []

    def update(self) -> Report:
        """All optimizer steps of the rollout batch; reports of those that were not skipped."""
        reports: list[Report] = []
        for _ in range(self.config.train.epochs_per_step):
            for number, members in enumerate(self._mini_batches()):
                taken = self._optimizer_step(members)
                reports += taken
                self.skipped += [] if taken else [number]
                self.skipped_in_a_row = 0 if taken else self.skipped_in_a_row + 1
        skipped = {"update/skipped_in_a_row": Max(self.skipped_in_a_row)}
        return summed([*reports, skipped, {"update/skipped": Mean(len(self.skipped), 1.0)}])

    def inputs(self) -> UpdateInputs:
        """What the last update was computed from."""
        return UpdateInputs.of(self.batch, self.coefficients, self.skipped)

    # -- the exact update -----------------------------------------------------------------------

    def _optimizer_step(self, members: Int[Tensor, "s"]) -> list[Report]:
        """One optimizer step on a mini-batch, the same whatever its micro-batches and ranks.

        Every micro-batch's loss is divided by denominators of the whole mini-batch (``totals``),
        so they simply add up. DeepSpeed averages over ranks, whose number is hence a factor.
        Reports nothing if the loss or a gradient was not finite: all ranks have skipped the step.
        """
        reports: list[Report] = []
        totals = self._totals(members)
        coupled_loss = 0.0
        if self.objective.coupled:
            coupled_loss = self._couple_responses(members, totals)
        active = members[self._active()[members]]
        if isinstance(self.objective, SelectingObjective):
            self._select_tokens(active, self.objective)
        ranks = self.ranks.size * self.sequence.size
        once = 1.0 / self.ranks.size  # for what every rank reports of one and the same step
        groups = count_groups(self.batch, active, self.ranks)
        for micro, n in self._micro_batches(active, update=True):
            (logp, entropy, _), _ = self._forward(self.engine, micro)
            loss = logp.sum() * 0.0
            if micro is not None:
                loss, report = self._loss(logp, entropy, micro, n, totals)
                prompts = len(torch.unique(micro.group_id))
                reports.append(report | {"update/prompt_passes": Mean(prompts, 0.0)})
            loss = told_by_gradient(loss + 0.0 * coupled_loss)
            self.engine.backward(loss * ranks, scale_wrt_gas=False)
        lr = learning_rate(self.config.learner, self.config.train, self.steps)
        grad_norm = take_step(self.engine, lr)
        if grad_norm is None:
            return []
        self.steps += 1
        self.moved = True
        last: Report = {
            "update/prompt_passes": Mean(0.0, groups * once),
            "update/loss": Mean(coupled_loss * once, once),
            "update/grad_norm": Mean(grad_norm * once, once),
            "update/lr": Mean(lr * once, once),
            "update/active_share": Mean(len(active) / max(totals.responses, 1), once),
        }
        return [*reports, last]

    @torch.no_grad()
    def _select_tokens(self, active: Int[Tensor, "s"], objective: SelectingObjective) -> None:
        """Let the objective choose among the tokens of the mini-batch; costs a forward."""
        own, n = self.batch.select(active)
        logp = self._logp(self.engine, active, empty=torch.nan)[n]
        own, _ = self._against_old(logp, own)
        selected = torch.zeros(self.batch.num_response_tokens, dtype=torch.bool, device=self.device)
        selected[n] = objective.selected(logp, own, self.coefficients[n], self.ranks)
        self.batch = replace(self.batch, selected=selected)

    def _loss(
        self, logp: PerToken, entropy: PerToken, micro: TokenBatch, n: Places, totals: Totals
    ) -> tuple[Scalar, Report]:
        """A micro-batch's share of the loss."""
        micro, mismatch = self._against_old(logp, micro)
        assert micro.logp_old is not None and self.batch.logp_old is not None
        # A second epoch measures its ratio against these.
        logp_old = self.batch.logp_old.index_copy(0, n, micro.logp_old)
        self.batch = replace(self.batch, logp_old=logp_old)
        terms = self.objective.loss(logp, micro, self.coefficients[n], totals)
        loss = terms.loss
        if bonus := self.config.learner.entropy_bonus:
            loss = loss - bonus * token_mean(entropy, micro, totals)
        gap = (micro.logp_old - micro.logp_rollout).abs()
        report: Report = {
            "update/entropy": Mean(entropy.sum(), len(n)),
            "mismatch/logp": Mean(gap.sum(), len(n)),
            "mismatch/logp_max": Max(gap.max()),
        }
        if not self.objective.coupled:  # what is coupled has its loss from the whole groups
            report["update/loss"] = Mean(loss, 0.0)
        return loss, report | mismatch | terms.metrics
