"""The kinds of methods, and which of them make sense together."""

from collections.abc import Mapping
from typing import Any

from rlvr.algorithm.advantages import ADVANTAGES
from rlvr.algorithm.correction import CORRECTIONS
from rlvr.algorithm.credit.base import CREDITS
from rlvr.algorithm.objectives.base import OBJECTIVES
from rlvr.algorithm.strength import STRENGTHS
from rlvr.registry import Registry

Node = Mapping[str, Any]

METHODS: dict[str, Registry[Any]] = {
    "advantage": ADVANTAGES,
    "objective": OBJECTIVES,
    "credit": CREDITS,
    "strength": STRENGTHS,
    "correction": CORRECTIONS,
}
"""By the node of the configuration that names the method."""


def compatible(
    credit: str | Node,
    objective: str | Node,
    advantage: str | Node = "grpo",
    strength: str | Node = "constant",
) -> str | None:
    """None if all go together, else the reason why not; each by name, or as its node.

    Raises ConfigError for an unknown name.
    """
    named = {"credit": credit, "objective": objective, "advantage": advantage, "strength": strength}
    nodes = {k: {"name": v} if isinstance(v, str) else v for k, v in named.items()}
    built = {kind: METHODS[kind].build(node, kind) for kind, node in nodes.items()}
    own, loss, unit = (f"{k} '{nodes[k]['name']}'" for k in ("credit", "objective", "advantage"))

    def says(kind: str, trait: str, default: bool = False) -> bool:
        return bool(getattr(built[kind], trait, default))

    if says("credit", "advantage_only") and not says("objective", "uses_advantage", True):
        return (
            f"{own} is a reweighting of the advantage, and {loss} has none: it reads the rewards "
            f"as labels. Choose credit=delta, oar_g, oar_p or uniform, or an objective with "
            f"advantages such as dapo."
        )
    if says("credit", "signed") and not says("objective", "allows_signed"):
        return (
            f"{own} gives coefficients of either sign, and {loss} has no meaning for those below "
            f"0 (it does not set allows_signed). Choose an objective such as dapo."
        )
    if says("advantage", "left_to_credit"):
        if not says("credit", "signed"):
            return (
                f"{unit} is 1 for right and wrong responses alike, and {own} is not an advantage "
                f"itself. Choose credit=vine, or advantage=grpo."
            )
        if not says("strength", "always_one"):
            return (
                f"{unit} is 1 for right and wrong responses alike, so that a strength below 1 "
                f"would reinforce both. Choose strength=constant strength.value=1, or "
                f"advantage=grpo."
            )
    return None
