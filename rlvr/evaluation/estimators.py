"""Figures of an evaluation, each first by question [P]: their mean is the figure."""

from math import comb

import numpy as np
from jaxtyping import Float

from rlvr.evaluation.answers import Answers

_SUBSETS = 200  # that maj@k averages over, where k < n

PerQuestion = Float[np.ndarray, "P"]


def figures(answers: Answers) -> dict[str, PerQuestion]:
    """``accuracy``, and of n > 1 samples ``pass_at_k`` for k = 2, 3, ... n.

    ``maj_at_k``, for the k of ``sizes``, where there are answers to vote for.
    """
    found = {"accuracy": answers.correct.mean(axis=1)}
    found |= {f"pass_at_{k}": pass_at(answers, k) for k in range(2, answers.samples + 1)}
    voted = sizes(answers.samples) if (answers.vote >= 0).any() else []
    return found | {f"maj_at_{k}": majority_at(answers, k) for k in voted}


def sizes(samples: int) -> list[int]:
    """The k that are shown: powers of two from 2 on, and n."""
    powers = [2**i for i in range(1, samples.bit_length()) if 2**i < samples]
    return [*powers, samples] if samples > 1 else []


def pass_at(answers: Answers, k: int) -> PerQuestion:
    """The chance that one of k samples is correct, without bias from n ≥ k of them.

    1 − C(n − c, k) / C(n, k), where c of n are correct (Chen et al., arXiv 2107.03374).
    """
    n, correct = answers.samples, answers.correct.sum(axis=1)
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} of {n} samples")
    missed = np.array([comb(n - c, k) / comb(n, k) for c in range(n + 1)])
    return 1 - missed[correct]


def majority_at(answers: Answers, k: int) -> PerQuestion:
    """The chance that the most frequent answer among k samples is the right one.

    Answers that tie for the most are drawn from evenly; responses without an answer do not vote.
    Where k < n it is the mean over subsets of k, the same ones in every call.
    """
    n = answers.samples
    if not 1 <= k <= n:
        raise ValueError(f"maj@{k} of {n} samples")
    if k == n:
        return np.array([_majority(votes) for votes in answers.vote])
    generator = np.random.default_rng(0)
    chosen = [generator.permutation(n)[:k] for _ in range(_SUBSETS)]
    return np.array(
        [np.mean([_majority(votes[subset]) for subset in chosen]) for votes in answers.vote]
    )


def _majority(votes: np.ndarray) -> float:
    counts = np.bincount(votes[votes >= 0], minlength=1)
    return float(counts[0] == counts.max() > 0) / max(1, int((counts == counts.max()).sum()))
