"""Credit assignment: token coefficients c_t ≥ 0, one file a method; ``base`` says what it is."""

from rlvr.algorithm.credit.base import (
    CREDITS,
    Credit,
    CreditAssigner,
    Features,
    FrozenPolicy,
    Inquirer,
    Inquiry,
    Needs,
    Question,
    Ranks,
    SoloRanks,
)

__all__ = [
    "CREDITS",
    "Credit",
    "CreditAssigner",
    "Features",
    "FrozenPolicy",
    "Inquirer",
    "Inquiry",
    "Needs",
    "Question",
    "Ranks",
    "SoloRanks",
]
