"""Runs that repeat each other: the same configuration but for the seed."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

_OWN = {"train.seed", "train.output_dir", "train.resume", "telemetry.name"}  # a run's alone
_METHODS = ("credit", "strength", "objective", "advantage", "correction")


def families(
    configurations: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> list[tuple[str, list[int]]]:
    """Numbers of the runs that belong together, each family with what tells it from the others."""
    flat = [_flat(configuration) for configuration in configurations]
    members: dict[str, list[int]] = {}
    for i, own in enumerate(flat):
        alike = {key: value for key, value in own.items() if key not in _OWN}
        key = json.dumps(alike, sort_keys=True) if own else f"run {i}"
        members.setdefault(key, []).append(i)
    labels = [_label([flat[own[0]] for own in members.values()], k) for k in range(len(members))]
    if len(set(labels)) < len(labels) or "" in labels:
        labels = [names[own[0]] for own in members.values()]
    return list(zip(labels, members.values(), strict=True))


def _label(families: Sequence[Mapping[str, Any]], k: int) -> str:
    """The keys in which family ``k`` differs from another, with its values."""
    own = families[k]
    keys = {key for other in families for key in own.keys() | other.keys() if key not in _OWN}
    differ = {key for key in keys if any(f.get(key) != own.get(key) for f in families)}
    named = {key for key in _METHODS if f"{key}.name" in differ}
    told = [str(own.get(f"{key}.name")) for key in _METHODS if key in named]
    for key in sorted(differ):
        if key.split(".")[0] not in named and key in own:
            told.append(f"{key}={own[key]}")
    return ", ".join(told)


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, Mapping):
        return {prefix.removesuffix("."): node}
    return {k: v for name, x in node.items() for k, v in _flat(x, f"{prefix}{name}.").items()}
