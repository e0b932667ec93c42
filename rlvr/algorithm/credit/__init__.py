"""Credit assignment: token coefficients c_t ≥ 0, one file a method; ``base`` says what it is."""

from rlvr.algorithm.credit.base import (
    CREDITS,
    Credit,
    CreditAssigner,
    Driver,
    Features,
    FrozenPolicy,
    Needs,
    PreparesInputs,
    Question,
    Ranks,
    SoloRanks,
)

__all__ = [
    "CREDITS",
    "Credit",
    "CreditAssigner",
    "Driver",
    "Features",
    "FrozenPolicy",
    "Needs",
    "PreparesInputs",
    "Question",
    "Ranks",
    "SoloRanks",
]
