"""Whether each group of a run was trained on once."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any


def verdict(rows: Sequence[Mapping[str, Any]], prompts_per_step: int | None) -> str | None:
    """One line on the rows of a ledger; None if there are none."""
    if not rows:
        return None
    trained = [row for row in rows if row["trained"]]
    if wrong := _wrong(rows, trained, prompts_per_step):
        return f"LEDGER BROKEN: {wrong}"
    discarded = len(rows) - len(trained)
    told = f"{len(trained)}, each trained on once"
    return f"{told}; {discarded} discarded" if discarded else told


def _wrong(
    rows: Sequence[Mapping[str, Any]],
    trained: Sequence[Mapping[str, Any]],
    prompts_per_step: int | None,
) -> str | None:
    """The first thing that should not be."""
    known: dict[int, int] = {}
    for row in rows:
        step, draw = row["step"], row["draw"]
        if draw in known:
            return f"draw {draw} (prompt {row['prompt']}) at steps {known[draw]} and {step}"
        known[draw] = step
    groups = Counter(row["step"] for row in trained)
    for step in range(min(groups, default=0), max(groups, default=-1) + 1):
        if not groups[step]:
            return f"nothing at step {step}"
        if prompts_per_step and groups[step] != prompts_per_step:
            return f"{groups[step]} of {prompts_per_step} groups at step {step}"
    return None
