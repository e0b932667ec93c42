"""What became of n responses to each of P questions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from jaxtyping import Bool, Int

from rlvr.task import Outcome
from rlvr.types import Group

_RIGHT, _NONE = 0, -1
_ANSWERS = (
    "math",
    "exact",
    "choice",
    "regex",
)  # verifiers whose detail is the answer that was read

Judged = tuple[str, str, str, Sequence[tuple[str, str]]]  # id, source, verifier; outcome and detail


@dataclass(frozen=True)
class Answers:
    """The verdicts on the responses to every question, in the order of their seeds.

    ``vote`` is what a response answers: 0 the right answer, k > 0 a wrong one, equal ones alike
    within a question, and -1 none, as it cannot be read or is none that could be compared (a
    program).
    """

    questions: Sequence[str]  # ids
    sources: Sequence[str]
    correct: Bool[np.ndarray, "P n"]
    vote: Int[np.ndarray, "P n"]

    @classmethod
    def of(cls, groups: Iterable[Group]) -> Self:
        """Those of ``groups`` that are whole."""
        return cls.judged(
            (p.id, p.source, p.verifier, [(s.verdict.outcome, s.verdict.detail) for s in samples])
            for p, samples in ((g.prompt, g.samples) for g in groups)
        )

    @classmethod
    def judged(cls, rows: Iterable[Judged]) -> Self:
        """From id, source and verifier of each question, and outcome and detail of each verdict."""
        rows = list(rows)
        outcomes = [[outcome == Outcome.CORRECT for outcome, _ in row[3]] for row in rows]
        correct = np.array(outcomes, dtype=bool).reshape(len(rows), -1)
        vote = [_votes(row[3]) if row[2] in _ANSWERS else [_NONE] * len(row[3]) for row in rows]
        votes = np.array(vote, dtype=np.int64).reshape(correct.shape)
        return cls([r[0] for r in rows], [r[1] for r in rows], correct, votes)

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def samples(self) -> int:
        """n, of every question."""
        return self.correct.shape[1]

    def take(self, places: Sequence[int] | Int[np.ndarray, "p"]) -> Self:
        """The questions at ``places``, in that order."""
        at = np.asarray(places, dtype=np.int64)
        return replace(
            self,
            questions=[self.questions[i] for i in at],
            sources=[self.sources[i] for i in at],
            correct=self.correct[at],
            vote=self.vote[at],
        )

    def by_source(self) -> dict[str, Self]:
        """The questions of each source, if there are several."""
        names = sorted(set(self.sources))
        if len(names) < 2:
            return {}
        return {
            name: self.take([i for i, own in enumerate(self.sources) if own == name])
            for name in names
        }


def _votes(verdicts: Sequence[tuple[str, str]]) -> list[int]:
    wrong: dict[str, int] = {}
    votes = []
    for outcome, detail in verdicts:
        if outcome == Outcome.CORRECT:
            votes.append(_RIGHT)
        elif outcome == Outcome.INCORRECT:
            votes.append(wrong.setdefault(" ".join(detail.split()).casefold(), len(wrong) + 1))
        else:
            votes.append(_NONE)
    return votes
