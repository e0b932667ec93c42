"""How sure a figure is: bootstrap over questions, and tests of two models against each other."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from rlvr.evaluation.answers import Answers
from rlvr.evaluation.estimators import PerQuestion, figures

_RESAMPLES = 10_000
_LEVEL = 95.0  # percent, of every interval
_AT_ONCE = 2_000_000  # numbers that are drawn at a time


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def differs(self) -> bool:
        """Of a difference: whether the interval leaves out 0."""
        return not self.low <= 0 <= self.high


def estimate(values: PerQuestion, seed: int = 0) -> Estimate:
    """The mean over questions, and the percentile bootstrap of it: questions drawn anew."""
    generator = np.random.default_rng(seed)
    rows = max(1, _AT_ONCE // len(values))
    means = np.concatenate(
        [
            values[
                generator.integers(0, len(values), (min(rows, _RESAMPLES - done), len(values)))
            ].mean(axis=1)
            for done in range(0, _RESAMPLES, rows)
        ]
    )
    return interval(float(values.mean()), means)


def interval(value: float, resampled: Float[np.ndarray, "r"]) -> Estimate:
    """A figure with the percentile interval of its bootstrap; draws that have none are left out."""
    low, high = np.nanpercentile(resampled, [50 - _LEVEL / 2, 50 + _LEVEL / 2])
    return Estimate(value, float(low), float(high))


@dataclass(frozen=True)
class Difference:
    """Of two models on the same questions, the second minus the first."""

    questions: int
    figures: dict[str, Estimate]  # paired bootstrap: a question is drawn for both
    suites_p: float | None  # Mann–Whitney, two-sided, of the suites' accuracies; None of one sample


def difference(first: Answers, second: Answers) -> Difference:
    """Compare on the questions that both answered; ValueError if there is none.

    Sample i of every question is one run of the suite, and a suite has one accuracy: n of them
    against n of the other's is what the Mann–Whitney test ranks.
    """
    place = {question: i for i, question in enumerate(second.questions)}
    common = [(i, place[q]) for i, q in enumerate(first.questions) if q in place]
    if not common:
        raise ValueError("they have no question in common")
    a, b = first.take([i for i, _ in common]), second.take([j for _, j in common])
    before, after = figures(a), figures(b)
    found = {name: estimate(after[name] - before[name]) for name in before if name in after}
    p = None
    if a.samples > 1 and b.samples > 1:
        from scipy.stats import mannwhitneyu

        p = float(mannwhitneyu(a.correct.mean(axis=0), b.correct.mean(axis=0)).pvalue)
    return Difference(len(common), found, p)
