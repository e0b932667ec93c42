"""The kinds of methods, and which credit makes sense under which objective."""

from collections.abc import Mapping
from typing import Any

from rlvr.algorithm.advantages import ADVANTAGES
from rlvr.algorithm.correction import CORRECTIONS
from rlvr.algorithm.credit.base import CREDITS
from rlvr.algorithm.objectives.base import OBJECTIVES
from rlvr.algorithm.strength import STRENGTHS
from rlvr.registry import Registry

METHODS: dict[str, Registry[Any]] = {
    "advantage": ADVANTAGES,
    "objective": OBJECTIVES,
    "credit": CREDITS,
    "strength": STRENGTHS,
    "correction": CORRECTIONS,
}
"""By the node of the configuration that names the method."""


def compatible(credit: str | Mapping[str, Any], objective: str | Mapping[str, Any]) -> str | None:
    """None if the two go together, else the reason why not; each by name, or as its node.

    Raises ConfigError for an unknown name.
    """
    credit, objective = ({"name": x} if isinstance(x, str) else x for x in (credit, objective))
    assigner, loss = CREDITS.build(credit, "credit"), OBJECTIVES.build(objective, "objective")
    if getattr(assigner, "advantage_only", False) and not getattr(loss, "uses_advantage", True):
        return (
            f"credit '{credit['name']}' is a reweighting of the advantage, and objective "
            f"'{objective['name']}' has none: it reads the rewards as labels. Choose credit=delta, "
            f"oar_g, oar_p or uniform, or an objective with advantages such as dapo."
        )
    return None
