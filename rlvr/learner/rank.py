"""One rank of the learner: score, assign credit, update. No Ray in here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlvr.algorithm.aggregation import token_mean
from rlvr.algorithm.correction import CORRECTIONS
from rlvr.algorithm.credit import CREDITS, Needs
from rlvr.algorithm.objectives import OBJECTIVES, CoupledObjective, Metric
from rlvr.config import RunConfig
from rlvr.learner.batching import micro_batches
from rlvr.learner.collectives import DistributedRanks
from rlvr.learner.engine import start_engine, start_reference
from rlvr.learner.features import STORES, LentPolicy, ScoringFeatures, choose_store
from rlvr.learner.metrics import MetricSums
from rlvr.learner.policy import load_policy
from rlvr.types import TokenBatch, Totals


class LearnerRank:
    """The policy's shard on one device, and the three stages of a training step on it.

    Every method is a collective: all ranks call it, in the same order. Ranks may hold different
    numbers of sequences; whoever has fewer portions than another runs an idle forward in its
    place, because ZeRO's collectives live inside forward and backward.
    """

    def __init__(self, config: RunConfig, device: torch.device, pad_token_id: int) -> None:
        self.config = config
        self.device = device
        self.ranks = DistributedRanks(device)
        self.objective = OBJECTIVES.build(config.objective, "objective")
        self.credit = CREDITS.build(config.credit, "credit")
        self.correction = CORRECTIONS.build(config.correction, "correction")
        temperature = config.rollout.temperature
        self.policy = load_policy(config.model, config.learner, temperature, device)
        self.frozen = LentPolicy(self.policy, pad_token_id)
        self.engine = start_engine(self.policy, config.learner, config.model)
        self.reference: Any = None
        if self.objective.needs_reference:
            reference = load_policy(config.model, config.learner, temperature, device)
            self.reference = start_reference(reference, config.learner, config.model)
        self.steps = 0  # optimizer steps taken
        self.moved = False  # whether a step has been taken on the current batch
        self.batch: TokenBatch
        self.features: ScoringFeatures
        self.coefficients: Float[Tensor, "N"]

    # -- the stages -----------------------------------------------------------------------------

    def load(self, batch: TokenBatch) -> None:
        """Take this rank's part of a rollout batch."""
        if self.config.train.overlong_filter:
            batch, _ = batch.select(torch.nonzero(~batch.truncated)[:, 0])
        unknown = torch.full((batch.num_response_tokens,), torch.nan)
        self.batch = replace(batch, logp_old=unknown).to(self.device)
        self.coefficients = torch.ones(batch.num_response_tokens, device=self.device)
        self.moved = False
        if self.objective.coupled:
            self.batch = replace(self.batch, response_weight=torch.zeros_like(self.batch.reward))
            for members in self._mini_batches():
                self._couple_responses(members, self._totals(members))

    @torch.no_grad()
    def score(self) -> dict[str, tuple[float, float]]:
        """Old log-probabilities, and the hidden states that the credit method asked for.

        Left out is what costs a forward and changes nothing: responses without gradient, and,
        when credit needs nothing of the pass, the first mini-batch, whose update starts at ratio
        1 and computes the same log-probabilities itself.
        """
        wanted = self._active()
        if self.reference is not None:
            self._score_reference(torch.nonzero(wanted)[:, 0])
        batch = self.batch
        scored = wanted[batch.sequence_id]
        if not self.credit.needs & (Needs.STATISTICS | Needs.HIDDEN):
            wanted &= batch.mini_batch > 0
        sequences = torch.nonzero(wanted)[:, 0]
        self.features = ScoringFeatures(
            scored,
            self.frozen,
            self.config.rollout.temperature,
            store=self._store(int(scored.sum())),
            recompute=lambda: self._stream_hidden(sequences),
        )
        tokens = 0
        assert batch.logp_old is not None
        for micro, n in self._portions(sequences, self.config.learner.tokens_per_scoring_batch):
            statistics, hidden = self.engine(micro)
            if n is not None:
                self.features.keep(n, statistics, hidden)
                batch.logp_old[n] = statistics[0]
                tokens += len(n)
        return {"score/tokens": (float(tokens), 1.0 / self.ranks.size)}

    def _store(self, tokens: int) -> str:
        """Where the hidden states of so many tokens wait: one answer for all ranks.

        Recomputing is a collective, so that a rank short of memory decides for the others too.
        """
        if Needs.HIDDEN not in self.credit.needs:
            return "recompute"
        asked = self.config.learner.features
        own = choose_store(asked, tokens, self.frozen, self.device)
        return STORES[self.ranks.max_count(STORES.index(own))]

    def _score_reference(self, sequences: Int[Tensor, "s"]) -> None:
        """Log-probabilities under the frozen reference policy, for the KL term."""
        logp = torch.zeros(self.batch.num_response_tokens, device=self.device)
        budget = self.config.learner.tokens_per_scoring_batch
        for micro, n in self._portions(sequences, budget):
            (values, _, _), _ = self.reference(micro)
            if n is not None:
                logp[n] = values
        self.batch = replace(self.batch, logp_reference=logp)

    def assign_credit(self) -> dict[str, tuple[float, float]]:
        """Token coefficients c_t of the whole rollout batch, under the old policy."""
        with torch.no_grad():
            credit = self.credit.assign(self.batch, self.features, self.ranks)
        self.coefficients = credit.coefficients.to(self.device)
        del self.features  # the hidden states are the largest thing in memory
        return {f"credit/{k}": (v, 1.0) for k, v in credit.metrics.items()}

    def update(self) -> dict[str, tuple[float, float]]:
        """All optimizer steps of the rollout batch; returns (sum, count) of every metric."""
        sums = MetricSums()
        for _ in range(self.config.train.epochs_per_step):
            for members in self._mini_batches():
                self._optimizer_step(members, sums)
        return sums.floats()

    # -- the exact update -----------------------------------------------------------------------

    def _optimizer_step(self, members: Int[Tensor, "s"], sums: MetricSums) -> None:
        """One optimizer step on a mini-batch, the same whatever its portions and ranks.

        Every portion's loss is divided by denominators of the whole mini-batch (``totals``), so
        portions simply add up. DeepSpeed averages over ranks: hence the factor ``ranks.size``.
        """
        totals = self._totals(members)
        coupled_loss = 0.0
        if self.objective.coupled:
            coupled_loss = self._couple_responses(members, totals)
        active = members[self._active()[members]]
        budget = self.config.learner.tokens_per_micro_batch
        for micro, n in self._portions(active, budget, at_least=1):
            (logp, entropy, _), _ = self.engine(micro)
            if n is None:
                loss = logp.sum() * 0.0
            else:
                loss = self._portion_loss(logp, entropy, micro, n, totals, sums)
            self.engine.backward(loss * self.ranks.size, scale_wrt_gas=False)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = self.learning_rate
        self.engine.step()
        self.steps += 1
        self.moved = True
        once = 1.0 / self.ranks.size  # for what every rank reports of one and the same step
        sums.add("update/loss", coupled_loss * once, once)
        sums.add("update/grad_norm", float(self.engine.get_global_grad_norm() or 0.0) * once, once)
        sums.add("update/lr", self.learning_rate * once, once)
        sums.add("update/active_share", len(active) / max(totals.responses, 1), once)

    def _portion_loss(
        self,
        logp: Float[Tensor, "n"],
        entropy: Float[Tensor, "n"],
        micro: TokenBatch,
        n: Int[Tensor, "n"],
        totals: Totals,
        sums: MetricSums,
    ) -> Float[Tensor, ""]:
        micro, mismatch = self._against_old(logp, micro)
        assert micro.logp_old is not None and self.batch.logp_old is not None
        self.batch.logp_old[n] = micro.logp_old  # a second epoch measures its ratio against this
        terms = self.objective.loss(logp, micro, self.coefficients[n], totals)
        loss = terms.loss
        if bonus := self.config.learner.entropy_bonus:
            loss = loss - bonus * token_mean(entropy, totals)
        if not self.objective.coupled:  # what is coupled has its loss from the whole groups
            sums.add("update/loss", loss, 0.0)
        sums.add("update/entropy", entropy.sum(), float(len(n)))
        gap = (micro.logp_old - micro.logp_rollout).abs()
        sums.add("mismatch/logp", gap.sum(), float(len(n)))
        sums.add("mismatch/logp_max", gap.max(), 1.0)
        for name, (total, count) in {**mismatch, **terms.metrics}.items():
            sums.add(name, total, count)
        return loss

    def _against_old(
        self, logp: Float[Tensor, "n"], micro: TokenBatch
    ) -> tuple[TokenBatch, dict[str, Metric]]:
        """Fill in log-probabilities that were not scored (ratio 1) and the importance weights."""
        assert micro.logp_old is not None
        logp_old = torch.where(torch.isnan(micro.logp_old), logp.detach(), micro.logp_old)
        importance, mismatch = self.correction.weights(logp_old, micro.logp_rollout, micro)
        return replace(micro, logp_old=logp_old, importance=importance), mismatch

    def _couple_responses(self, members: Int[Tensor, "s"], totals: Totals) -> float:
        """Set ∂L/∂s̄_i of the members, from the scores of the mini-batch on all ranks; return L.

        Until the policy has moved away from the old one every score is 0 and costs no forward.
        """
        batch, objective = self.batch, cast(CoupledObjective, self.objective)
        columns = [batch.response_id, torch.zeros_like(batch.reward), batch.reward, batch.group_id]
        rows = [torch.stack([c[members].double() for c in columns], 1)]
        if self.moved:
            rows = [rows[0][:0]]
            with torch.no_grad():
                budget = self.config.learner.tokens_per_scoring_batch
                for micro, n in self._portions(members, budget):
                    (logp, _, _), _ = self.engine(micro)
                    if n is not None:
                        micro, _ = self._against_old(logp, micro)
                        score = objective.score(logp, micro, self.coefficients[n])
                        columns = [micro.response_id, score, micro.reward, micro.group_id]
                        rows.append(torch.stack([c.double() for c in columns], 1))
        table = self.ranks.all_gather(torch.cat(rows))
        table = table[torch.argsort(table[:, 0])]
        weights = objective.response_weights(table[:, 1], table[:, 2], table[:, 3].long(), totals)
        place = torch.searchsorted(table[:, 0].contiguous(), batch.response_id[members].double())
        assert batch.response_weight is not None
        batch.response_weight[members] = weights[place].to(batch.response_weight.dtype)
        return float(objective.value(table[:, 1], table[:, 2], table[:, 3].long(), totals))

    # -- portions -------------------------------------------------------------------------------

    def _mini_batches(self) -> list[Int[Tensor, "_s"]]:
        """This rank's sequences of every mini-batch; a rank may have none of one."""
        own = self.batch.mini_batch
        count = self.ranks.max_count(int(own.max()) + 1 if len(own) else 0)
        return [torch.nonzero(own == m)[:, 0] for m in range(count)]

    def _active(self) -> Tensor:
        """Bool [S]: sequences whose gradient is not identically 0."""
        if self.config.learner.entropy_bonus:
            return torch.ones(self.batch.num_sequences, dtype=torch.bool, device=self.device)
        return self.objective.active(self.batch, self.coefficients)

    def _totals(self, members: Int[Tensor, "s"]) -> Totals:
        own = torch.stack(
            [
                self.batch.response_length[members].sum(),
                torch.tensor(len(members), device=self.device),
            ]
        )
        tokens, responses = self.ranks.all_reduce(own).tolist()
        groups = torch.unique(self.ranks.all_gather(self.batch.group_id[members]))
        return Totals(
            tokens=int(tokens),
            responses=int(responses),
            groups=len(groups),
            max_response_tokens=self.config.rollout.max_response_tokens,
        )

    def _portions(
        self, sequences: Int[Tensor, "s"], budget: int, at_least: int = 0
    ) -> Iterator[tuple[TokenBatch, Int[Tensor, "n"] | None]]:
        """Sub-batches of ``sequences`` with their place on the N axis; idle ones have None.

        ``at_least`` one: DeepSpeed cannot step without a backward, even where no sequence of a
        mini-batch has a gradient.
        """
        lengths = self.batch.sequence_length[sequences].cpu()
        own: Sequence[Tensor] = micro_batches(lengths, budget) if len(sequences) else []
        for k in range(self.ranks.max_count(max(len(own), at_least))):
            if k < len(own):
                yield self.batch.select(sequences[own[k].to(self.device)])
            else:
                yield _idle_batch(self.device), None

    def _stream_hidden(self, sequences: Int[Tensor, "s"]) -> Iterator[tuple[Tensor, Tensor]]:
        with torch.no_grad():
            budget = self.config.learner.tokens_per_scoring_batch
            for micro, n in self._portions(sequences, budget):
                hidden = self.policy.hidden(micro)[micro.predict_index]  # the head is not needed
                if n is not None:
                    yield n, hidden

    @property
    def learning_rate(self) -> float:
        """Linear warm-up, then constant."""
        warmup = self.config.learner.warmup_steps
        return self.config.learner.lr * min(1.0, (self.steps + 1) / max(warmup, 1))


def _idle_batch(device: torch.device) -> TokenBatch:
    """The smallest sequence there is, for a rank that has nothing left to forward."""
    one = torch.zeros(1, dtype=torch.long)
    return TokenBatch(
        input_ids=torch.zeros(2, dtype=torch.long),
        position_ids=torch.arange(2),
        cu_seqlens=torch.tensor([0, 2], dtype=torch.int32),
        response_index=one + 1,
        sequence_id=one,
        logp_rollout=torch.zeros(1),
        policy_version=one,
        reward=torch.zeros(1),
        advantage=torch.zeros(1),
        correct=torch.zeros(1, dtype=torch.bool),
        truncated=torch.zeros(1, dtype=torch.bool),
        group_id=one,
        mini_batch=one,
        response_id=one,
    ).to(device)
