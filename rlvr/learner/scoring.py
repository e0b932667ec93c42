"""The stages before the update: a policy scores a rollout batch and assigns credit."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlvr.algorithm.correction import CORRECTIONS
from rlvr.algorithm.credit import CreditAssigner, Needs
from rlvr.algorithm.credit.shadow import credit_methods
from rlvr.algorithm.metrics import Mean
from rlvr.algorithm.objectives import OBJECTIVES, CoupledObjective
from rlvr.algorithm.objectives.base import PerToken
from rlvr.algorithm.strength import drawn
from rlvr.config import RunConfig
from rlvr.learner.batching import micro_batches
from rlvr.learner.collectives import DistributedRanks
from rlvr.learner.credit import CreditStage, Members, Report
from rlvr.learner.features import LentPolicy, ScoringFeatures, agreed_store
from rlvr.learner.logprob import TokenStatistics
from rlvr.learner.policy import Policy
from rlvr.learner.prompts import shared_prompts
from rlvr.learner.totals import totals_of
from rlvr.types import IN_USE, Packing, TokenBatch, TokenCoefficients, Totals

Places = Int[Tensor, "n"]  # of a sub-batch's tokens on the N axis


class ScoringRank:
    """A policy on one device with its part of a rollout batch: alone, or one of several ranks.

    Every stage is a collective: all ranks call it, in the same order. Those that are sequence
    parallel hold the same batch and reply the same. Others may hold different numbers of
    sequences; whoever has fewer micro-batches than another runs an idle forward in
    their place, because ZeRO's collectives live inside forward and backward.

    Args:
        config: the run's.
        device: of the policy.
        pad_token_id: the tokenizer's.
        policy: the policy.
        engine: what runs it, called as the policy itself is.
        reference: a frozen policy, where the objective needs one.
        methods: of credit, by their labels; by default those of ``config``.
    """

    def __init__(
        self,
        config: RunConfig,
        device: torch.device,
        pad_token_id: int,
        policy: Policy,
        engine: Any,
        reference: Any = None,
        methods: dict[str, CreditAssigner] | None = None,
    ) -> None:
        self.config = config
        self.device = device
        self.sequence = policy.sequence
        self.ranks = DistributedRanks(device, self.sequence.data_parallel)
        self.objective = OBJECTIVES.build(config.objective, "objective")
        self.credit = CreditStage(methods or credit_methods(config), self.ranks, device)
        self.correction = CORRECTIONS.build(config.correction, "correction")
        self.policy = policy
        self.frozen = LentPolicy(policy, pad_token_id)
        self.engine = engine
        self.reference = reference
        self.moved = False  # whether a step has been taken on the current batch
        self.batch: TokenBatch
        self.cost: Float[Tensor, "S"]
        self.coefficients: Float[Tensor, "N"]

    def load(self, batch: TokenBatch) -> None:
        """Take this rank's part of a rollout batch."""
        if self.config.train.overlong_filter:
            batch, _ = batch.select(torch.nonzero(~batch.truncated)[:, 0])
        everything = torch.ones(batch.num_sequences, dtype=torch.bool)
        self.cost = self.policy.flops.of_sequences(batch, everything)
        n = batch.num_response_tokens
        self.batch = replace(batch, logp_old=torch.full((n,), torch.nan)).to(self.device)
        self.coefficients = torch.ones(n, device=self.device)
        self.moved = False

    @torch.no_grad()
    def score(self) -> Report:
        """Old log-probabilities, and the hidden states that the credit methods asked for.

        Left out is what costs a forward and changes nothing: responses without gradient, and,
        when credit needs nothing of the pass, the first mini-batch, whose update starts at ratio
        1 and computes the same log-probabilities itself. What only shadows ask for follows in a
        pass of its own, so that the first one, and what the method in use sees of it, is bit for
        bit what it is without them.
        """
        if self.objective.coupled:  # which responses take part is the whole group's affair
            self.batch = replace(self.batch, response_weight=torch.zeros_like(self.batch.reward))
            for members in self._mini_batches():
                self._couple_responses(members, self._totals(members))
        active, credit = self._active(), self.credit
        wanted = credit.seen(active)
        if self.reference is not None:
            logp = self._logp(self.reference, torch.nonzero(wanted)[:, 0], empty=0.0)
            self.batch = replace(self.batch, logp_reference=logp)
        first = wanted
        if not credit.needs & (Needs.STATISTICS | Needs.HIDDEN):
            first = wanted & (self.batch.mini_batch > 0)
        kept = credit.kept(active)
        features, logp = self._scoring_pass(first, wanted, kept)
        self.batch = replace(self.batch, logp_old=logp)
        passes, tokens = [features], (~logp.isnan()).sum()
        if credit.shadows:
            every = credit.seen_by_any(active)
            features, logp = self._scoring_pass(every & ~first, every, kept)
            passes, tokens = [*passes, features], tokens + (~logp.isnan()).sum()
        credit.take(passes, active, self.batch)
        return {"score/tokens": Mean(float(tokens), 1.0 / self.ranks.size)}

    @torch.no_grad()
    def assign_credit(
        self, wanted: bool = False, strength: float = 1.0
    ) -> tuple[Report, TokenCoefficients | None]:
        """Token coefficients c_t of the whole rollout batch, under the old policy.

        Those in use are drawn towards 1 as ``strength`` says, after all is reported of them.

        Returns what there is to report, and the coefficients by every method if they are
        ``wanted``.
        """
        report, found = self.credit.assign(self.batch)
        self.coefficients = found[IN_USE] = drawn(found[IN_USE], strength)
        return report, TokenCoefficients.of(self.batch, found) if wanted else None

    @torch.no_grad()
    def try_credit(self) -> tuple[Report, TokenCoefficients]:
        """What ``assign_credit`` would report and find, by every method; changes nothing."""
        report, found = self.credit.tried(self.batch)
        return report, TokenCoefficients.of(self.batch, found)

    def _against_old(self, logp: PerToken, micro: TokenBatch) -> tuple[TokenBatch, Report]:
        """Fill in log-probabilities that were not scored (ratio 1) and the importance weights."""
        assert micro.logp_old is not None
        logp_old = torch.where(torch.isnan(micro.logp_old), logp.detach(), micro.logp_old)
        importance, mismatch = self.correction.weights(logp_old, micro.logp_rollout, micro)
        return replace(micro, logp_old=logp_old, importance=importance), mismatch

    def _couple_responses(self, members: Int[Tensor, "s"], totals: Totals) -> float:
        """Set ∂L/∂s̄_i of the members, from s̄ of the mini-batch on all ranks; return L.

        Until the policy has moved away from the old one every s̄ is 0 and costs no forward.
        """
        batch, objective = self.batch, cast(CoupledObjective, self.objective)
        own, n = batch.select(members)
        mean = torch.zeros_like(own.reward)
        if self.moved:
            with torch.no_grad():
                logp = self._logp(self.engine, members, empty=torch.nan)[n]
                current, _ = self._against_old(logp, own)
                mean = objective.mean_log_ratio(logp, current, self.coefficients[n])
        columns = [own.response_id, mean, own.reward, own.group_id]
        table = self.ranks.all_gather(torch.stack([c.double() for c in columns], 1))
        table = table[torch.argsort(table[:, 0])]
        response_id, mean, reward, group_id = table.T.contiguous()
        weights = objective.response_weights(mean, reward, group_id.long(), totals)
        place = torch.searchsorted(response_id, own.response_id.double())
        known = batch.response_weight
        assert known is not None
        known = known.index_copy(0, members, weights[place].to(known.dtype))
        self.batch = replace(batch, response_weight=known)
        return float(objective.value(mean, reward, group_id.long(), totals))

    # -- forward passes -------------------------------------------------------------------------

    def _micro_batches(
        self, sequences: Int[Tensor, "s"], *, update: bool = False
    ) -> Iterator[tuple[TokenBatch | None, Places]]:
        """Sub-batches of ``sequences`` with their place on the N axis; None: an idle one.

        For an ``update`` at least one: DeepSpeed cannot step without a backward, even where no
        sequence of a mini-batch has a gradient.
        """
        learner = self.config.learner
        budget = learner.tokens_per_micro_batch if update else learner.tokens_per_scoring_batch
        own = micro_batches(self.batch, sequences, self.cost, budget)
        count = self.ranks.max_count(max(len(own), int(update)))
        if len(own) < count:  # ranks meet in every micro-batch, so each cuts its work into as many
            evenly = micro_batches(self.batch, sequences, self.cost, budget, least=count)
            own = evenly if len(evenly) <= count else own
        for k in range(count):
            if k < len(own):
                yield self.batch.select(own[k])
            else:
                yield None, sequences[:0]

    def _forward(
        self, model: Any, micro: TokenBatch | None
    ) -> tuple[TokenStatistics, Float[Tensor, "n d"]]:
        """The policy's or the reference's statistics and hidden states of a micro-batch."""
        if micro is not None:
            return model(*shared_prompts(micro), micro.target)
        nowhere = torch.zeros(1, dtype=torch.long, device=self.device)
        return model(Packing.idle(self.device), nowhere, nowhere)

    def _logp(
        self,
        model: Any,
        sequences: Int[Tensor, "s"],
        *,
        empty: float,
        features: ScoringFeatures | None = None,
    ) -> Float[Tensor, "N"]:
        """log p of the tokens of ``sequences``, ``empty`` elsewhere; fills ``features``."""
        logp = torch.full((self.batch.num_response_tokens,), empty, device=self.device)
        for micro, n in self._micro_batches(sequences):
            statistics, hidden = self._forward(model, micro)
            if micro is not None:
                logp[n] = statistics[0]
                if features is not None:
                    features.keep(n, statistics, hidden)
        return logp

    def _scoring_pass(
        self, members: Members, scored: Members, kept: Members | None
    ) -> tuple[ScoringFeatures, Float[Tensor, "N"]]:
        """Features and log p of the ``members``, NaN elsewhere, with hidden states of the ``kept``.

        ``scored`` says of all sequences whether the pass stands for them.
        """
        place, store = self.batch.sequence_id, "recompute"
        own = members
        if kept is not None:
            own = members & kept
            asked, tokens = self.config.learner.features, int(own[place].sum())
            store = agreed_store(asked, tokens, self.frozen, self.device)
        again = torch.nonzero(own)[:, 0]
        features = ScoringFeatures(
            scored[place],
            self.frozen,
            self.config.rollout.temperature,
            store=store,
            recompute=lambda: self._stream_hidden(again),
            kept=own[place],
        )
        sequences = torch.nonzero(members)[:, 0]
        logp = self._logp(self.engine, sequences, empty=torch.nan, features=features)
        return features, logp

    def _stream_hidden(self, sequences: Int[Tensor, "s"]) -> Iterator[tuple[Tensor, Tensor]]:
        with torch.no_grad():
            for micro, n in self._micro_batches(sequences):
                if micro is None:
                    self.policy.hidden(Packing.idle(self.device))
                else:  # the head is not needed
                    packing, predict_index = shared_prompts(micro)
                    yield n, self.policy.hidden(packing)[predict_index]

    # -- what takes part ------------------------------------------------------------------------

    def _mini_batches(self) -> list[Int[Tensor, "_s"]]:
        """This rank's sequences of every mini-batch; a rank may have none of one."""
        own = self.batch.mini_batch
        count = self.ranks.max_count(int(own.max()) + 1 if len(own) else 0)
        return [torch.nonzero(own == m)[:, 0] for m in range(count)]

    def _active(self) -> Bool[Tensor, "S"]:
        """Sequences whose gradient is not identically 0."""
        if self.config.learner.entropy_bonus:
            return torch.ones(self.batch.num_sequences, dtype=torch.bool, device=self.device)
        return self.objective.active(self.batch, self.coefficients)

    def _totals(self, members: Int[Tensor, "s"]) -> Totals:
        return totals_of(self.batch, members, self.ranks, self.config.rollout.max_response_tokens)
