"""What may be chosen for a key, and what to say of anything else."""

import difflib
from dataclasses import is_dataclass
from enum import StrEnum
from typing import get_type_hints

from rlvr.config import RunConfig


def choices(config_class: type, prefix: str = "") -> dict[str, type[StrEnum]]:
    """The keys under ``config_class`` whose values are a fixed choice, and what may be chosen."""
    found: dict[str, type[StrEnum]] = {}
    for name, kind in get_type_hints(config_class).items():
        if is_dataclass(kind):
            found |= choices(kind, f"{prefix}{name}.")  # type: ignore[arg-type]
        elif isinstance(kind, type) and issubclass(kind, StrEnum):
            found[prefix + name] = kind
    return found


def refused_choice(key: str, value: object) -> str | None:
    """What to say of a ``value`` that the key of a run does not offer; None if it is a choice."""
    valid = [str(member) for member in choices(RunConfig).get(key, ())]
    if not valid or value in valid:
        return None
    return f"{key}={value}: unknown. {nearest(str(value), valid)}"


def nearest(name: str, valid: list[str]) -> str:
    """`` Did you mean 'x'?`` for the closest valid name, or the list of what is valid."""
    if close := difflib.get_close_matches(name, valid, n=1, cutoff=0.5):
        return f"Did you mean '{close[0]}'?"
    return f"Valid: {', '.join(sorted(valid))}."
