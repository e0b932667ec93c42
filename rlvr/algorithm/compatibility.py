"""The kinds of methods, and which credit makes sense under which objective."""

from typing import Any

from rlvr.algorithm.advantages import ADVANTAGES
from rlvr.algorithm.correction import CORRECTIONS
from rlvr.algorithm.credit.base import CREDITS
from rlvr.algorithm.objectives.base import OBJECTIVES
from rlvr.registry import Registry

METHODS: dict[str, Registry[Any]] = {
    "advantage": ADVANTAGES,
    "objective": OBJECTIVES,
    "credit": CREDITS,
    "correction": CORRECTIONS,
}
"""By the node of the configuration that names the method."""


def compatible(credit: str, objective: str) -> str | None:
    """None if the two go together, else the reason why not.

    Raises ConfigError for an unknown name.
    """
    assigner = CREDITS.find(credit, "credit").method
    loss = OBJECTIVES.find(objective, "objective").method
    if getattr(assigner, "advantage_only", False) and not getattr(loss, "uses_advantage", True):
        return (
            f"credit '{credit}' is a reweighting of the advantage, and objective '{objective}' "
            f"has none: it reads the rewards as labels. Choose credit=delta, oar_g, oar_p or "
            f"uniform, or an objective with advantages such as dapo."
        )
    return None
