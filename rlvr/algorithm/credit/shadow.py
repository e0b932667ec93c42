"""Credit methods beside the one in use: built and prepared with it, by their labels."""

from collections.abc import Mapping, Sequence

from rlvr.algorithm.credit.base import CREDITS, CreditAssigner, Driver, PreparesInputs
from rlvr.config import RunConfig
from rlvr.errors import ConfigError
from rlvr.registry import labelled
from rlvr.types import IN_USE, CreditInputs, Group


def credit_methods(config: RunConfig) -> dict[str, CreditAssigner]:
    """The method in use, which comes first, and its shadows, each under its label.

    ConfigError for an unknown method or option, or one that is named twice.
    """
    methods = {IN_USE: CREDITS.build(config.credit, "credit")}
    for number, shadow in enumerate(config.shadow.credits):
        where = f"shadow.credits[{number}]"
        label, node = labelled(shadow, where)
        if label in methods:
            raise ConfigError(f"{where}: {label} is there twice.")
        methods[label] = CREDITS.build(node, where)
    return methods


def room(label: str) -> str:
    """Where what a method reports lies among the metrics, that in use and its shadows."""
    return f"shadow/{label}" if label else "credit"


async def prepared(
    methods: Mapping[str, CreditAssigner], groups: Sequence[Group], driver: Driver
) -> CreditInputs | None:
    """What the methods prepare, each in a part of its own; None if none of them does."""
    parts = {
        label: await method.prepare(groups, driver)
        for label, method in methods.items()
        if isinstance(method, PreparesInputs)
    }
    return CreditInputs(parts=parts) if parts else None
