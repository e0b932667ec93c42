"""Runs side by side, in plain text."""

import shutil
from collections.abc import Sequence

from rlvr.telemetry import figures
from rlvr.telemetry.record import RunRecord

_ENDS = (  # metric, its label, and how it reads
    ("rollout/reward_mean", "reward", "{:.3f}"),
    ("rollout/accuracy", "rollout accuracy", "{:.1%}"),
    ("length/mean", "response length", "{:.1f}"),
    ("length/truncated", "truncated", "{:.1%}"),
    ("groups/with_spread", "groups with spread", "{:.1%}"),
    ("update/entropy", "entropy", "{:.3f}"),
    ("mismatch/kl", "mismatch KL", "{:.1e}"),
)
_GAP = 3


def comparison(records: Sequence[RunRecord], width: int | None = None) -> str:
    """A column per run, a line per quantity; runs that do not fit beside each other go below.

    ``width`` is the terminal's, or 100 where there is none.
    """
    width = width or shutil.get_terminal_size((100, 24)).columns
    columns = [run_column(record) for record in records]
    labels = _merged(columns)
    blocks: list[list[dict[str, str]]] = []
    room = 0
    for column in columns:
        needed = _GAP + max(map(len, column.values()))
        if not blocks or needed > room:
            blocks.append([])
            room = width - max(map(len, labels))
        blocks[-1].append(column)
        room -= needed
    return "\n\n".join(_block(labels, block) for block in blocks)


def run_column(record: RunRecord) -> dict[str, str]:
    """What there is to say of a run, by labels."""
    done = record.steps[-1]["step"] if record.steps else 0
    column = {
        "run": record.name,
        "steps": f"{done} of {record.planned}" if record.planned else f"{done}",
    }
    if record.summary is None:
        column["steps"] += " (not ended)"
    if record.ledger:
        column["groups"] = record.ledger
    for name, (before, after) in record.before_after.items():
        column[name] = f"{figures.figure(name, before)} -> {figures.figure(name, after)}"
    for metric, label, form in _ENDS:
        if ends := record.ends(metric):
            column[label] = " -> ".join(form.format(value) for value in ends)
    column["training time"] = figures.duration(record.seconds)
    column["tokens/s"] = figures.compact(record.tokens_per_second)
    whole = record.stages.get("step")
    for name, mean in record.stages.items():
        if name == "step":
            column["a step"] = figures.seconds(mean)
        else:
            share = f"{figures.percent(mean / whole, 0):>5}" if whole else ""
            column[f"  {name}"] = f"{figures.seconds(mean)} {share}"
    return column


def _merged(columns: Sequence[dict[str, str]]) -> list[str]:
    """Every column's labels, each behind the one that it follows in its column."""
    labels: list[str] = []
    for column in columns:
        place = 0
        for label in column:
            if label not in labels:
                labels.insert(place, label)
            place = labels.index(label) + 1
    return labels


def _block(labels: list[str], columns: Sequence[dict[str, str]]) -> str:
    cells = [labels, *([column.get(label, "-") for label in labels] for column in columns)]
    padded = [[cell.ljust(max(map(len, own))) for cell in own] for own in cells]
    lines = zip(*padded, strict=True)
    shown = [line for line in lines if any(cell.strip() != "-" for cell in line[1:])]
    return "\n".join((" " * _GAP).join(line).rstrip() for line in shown)
