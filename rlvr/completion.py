"""What may come next on the command line, for bash's ``complete -C``."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path

from rlvr.choice import choices
from rlvr.config import RunConfig

_ON_A_RUN = ("train", "plan", "prepare", "evaluate", "audit")  # their arguments are overrides
_GROUPS = ("recipe", "scale")  # that are added (+recipe=)
# Found by importing them: 2 s
_METHODS = ("advantage", "correction", "credit", "objective", "strength")


def completions(
    commands: Sequence[str], environment: Mapping[str, str] = os.environ
) -> Iterator[str]:
    """Every continuation of the line in ``COMP_LINE`` up to ``COMP_POINT``.

    bash takes ``=`` for the end of a word, so of ``key=value`` it is given the value alone.
    """
    line = environment.get("COMP_LINE", "")[: int(environment.get("COMP_POINT", "9999"))]
    _, *before, word = [*line.split(), ""] if line.endswith(" ") else line.split()
    if not before:
        yield from (command for command in commands if command.startswith(word))
    elif before[0] in _ON_A_RUN:
        key, assigned, value = word.partition("=")
        offered = _values(key.lstrip("+")) if assigned else [f"{k}=" for k in _keys()]
        yield from (o for o in offered if o.startswith(value if assigned else word))


def _keys() -> list[str]:
    return [*(f"+{group}" for group in _GROUPS), *_METHODS, *_of(RunConfig)]


def _of(config_class: type, prefix: str = "") -> Iterator[str]:
    for field in fields(config_class):
        node = field.default_factory
        if node is not MISSING and is_dataclass(node):
            yield from _of(node, f"{prefix}{field.name}.")
        elif prefix:
            yield prefix + field.name


def _values(key: str) -> list[str]:
    if key in _METHODS:
        from rlvr.algorithm.compatibility import METHODS

        return METHODS[key].names()
    if key in (kinds := choices(RunConfig)):
        return [str(member) for member in kinds[key]]
    files = (Path(__file__).parent / "conf" / key).glob("*.yaml")
    return sorted(file.stem for file in files)
