"""OAR's outcome of a response, the distribution over answers, and how far apart two of them are."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rlvr.algorithm.aggregation import at_least_float32
from rlvr.types import Packing

MODES = ("first", "last", "answer_mean", "answer_joint")
_CHUNK = 1 << 26  # elements of logits, or of a block of lm_head


def outcomes(
    mode: str,
    hidden: Float[Tensor, "T d"],
    packing: Packing,
    answers: Sequence[int],
    head: Float[Tensor, "V d"],
    temperature: float,
) -> Float[Tensor, "k V"] | Float[Tensor, "k"]:
    """The outcome of every sequence, differentiable in ``hidden``.

    Args:
        mode: ``first``: log-distribution at the position that predicts the answer's first token,
            where the released OAR-P reads; ``last``: at the answer's last token, where the
            released OAR-G reads in that mode; ``answer_mean``: log-softmax of the mean of the
            logits that predict the answer; ``answer_joint``: φ, the mean log-probability of the
            answer tokens.
        hidden: final states of the packed sequences.
        packing: these sequences.
        answers: number of answer tokens at each sequence's end.
        head: rows of lm_head.
        temperature: divides the logits.
    """
    ends = packing.cu_seqlens[1:].tolist()
    predicting = [slice(end - n - 1, end - 1) for end, n in zip(ends, answers, strict=True)]
    if mode == "answer_joint":
        targets = [packing.input_ids[at.start + 1 : at.stop + 1] for at in predicting]
        pairs = zip(predicting, targets, strict=True)
        return torch.stack([_mean_logp(hidden[at], y, head, temperature) for at, y in pairs])
    if mode == "last":
        states = at_least_float32(hidden[[end - 1 for end in ends]])
    elif mode == "first":
        states = at_least_float32(hidden[[at.start for at in predicting]])
    else:  # the mean of logits is the logit of the mean state
        states = torch.stack([at_least_float32(hidden[at]).mean(0) for at in predicting])
    return _logits(states, head, temperature).log_softmax(-1)


def outcome_divergence(
    clean: Float[Tensor, "k V"] | Float[Tensor, "k"],
    changed: Float[Tensor, "k V"] | Float[Tensor, "k"],
) -> Float[Tensor, "k"]:
    """KL(clean ‖ changed) of log-distributions, or φ_clean − φ_changed of numbers.

    With d = log p − log q, Σ p d is a small difference of large terms. Σ p (d + e^−d − 1) is the
    same, for Σ p e^−d = Σ q = 1, and no term of it is negative. Where q is much larger than p,
    e^−d overflows, and p d + q − p is the term without a loss.
    """
    difference = clean - changed
    if clean.dim() == 1:
        return difference
    p = clean.exp()
    near = p * (difference + torch.expm1(-difference.clamp(min=-1)))
    far = p * difference + changed.exp() - p
    return torch.where(difference > -1, near, far).sum(-1)


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


def _mean_logp(
    hidden: Float[Tensor, "a d"],
    y: Int[Tensor, "a"],
    head: Float[Tensor, "V d"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Mean of log p(y), a chunk of the logits at a time, in the backward pass too."""

    def chunk(h: Tensor, y: Tensor) -> Tensor:
        logits = _logits(at_least_float32(h), head, temperature)
        return -F.cross_entropy(logits, y, reduction="sum")

    rows = max(_CHUNK // len(head), 1)
    parts = zip(hidden.split(rows), y.split(rows), strict=True)
    logp = [checkpoint(chunk, h, y, use_reentrant=False) for h, y in parts]
    return torch.stack(logp).sum() / len(y)
