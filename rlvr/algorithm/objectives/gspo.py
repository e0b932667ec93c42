"""GSPO (2507.18071): one ratio a response, clipped tightly, in its token form."""

from dataclasses import dataclass

from rlvr.algorithm.aggregation import segment_mean
from rlvr.algorithm.objectives.base import MAX_LOG_RATIO, OBJECTIVES, Clipped, PerToken, Term
from rlvr.types import TokenBatch


@OBJECTIVES.register("gspo")
@dataclass
class Gspo(Clipped):
    """−min(s A, clip(s, 1−ε_low, 1+ε_high) A) with s_i = exp(mean_t (logp − logp_old)).

    Every token carries s_i as its value and routes the gradient through its own logp, so that
    token coefficients apply; with c = 1 value and gradient are those of the sequence form.
    """

    aggregation: str = "sequence_mean"
    clip_low: float = 3e-4  # of a whole response's ratio, as clip_high
    clip_high: float = 4e-4

    def token_loss(
        self, logp: PerToken, log_ratio: PerToken, advantage: PerToken, batch: TokenBatch
    ) -> Term:
        """The clipped term with logp − sg(logp) + sg(log s_i) as log ratio."""
        assert batch.logp_old is not None
        difference = logp.detach() - batch.logp_old.to(logp.dtype)
        log_s = segment_mean(difference, batch.sequence_id, batch.num_sequences)
        log_s = log_s.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)[batch.sequence_id]
        return super().token_loss(logp, logp - logp.detach() + log_s, advantage, batch)
