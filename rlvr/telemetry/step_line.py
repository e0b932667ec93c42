"""The one line that a training step prints."""

import math
from collections.abc import Mapping

from rlvr.telemetry import figures
from rlvr.telemetry.timing import stages

# In the order of the line: metric, how it reads, and how soon it is left out of a narrow
# terminal (0: never).
_PARTS = (
    ("rollout/reward_mean", "reward {:5.3f}", 0),
    ("rollout/accuracy", "acc {:6.1%}", 0),
    ("length/mean", "len {:7.1f}", 0),
    ("groups/with_spread", "spread {:4.0%}", 0),
    ("update/loss", "loss {:7.4f}", 3),
    ("update/entropy", "entropy {:5.3f}", 1),
    ("update/grad_norm", "grad {:5.2f}", 4),
    ("mismatch/kl", "mismatch {:7.1e}", 2),
    ("nonfinite", "nonfinite {}", 0),
    ("update/skipped", "skipped {:.0f}", 0),
)
_TROUBLE = ("nonfinite", "update/skipped")  # nothing to say of, at 0
_STAGES_GO = 5

Row = Mapping[str, float | None]  # None: no finite number


def step_line(
    step: int, total: int, row: Row, *, width: int = 0, eta_s: float | None = None
) -> str:
    """The line of a step, in columns that stay in place from step to step.

    A metric may be missing from ``row``. A terminal of ``width`` columns loses the least important
    parts (0: any width). ``eta_s``: seconds that the rest of the run will take.
    """
    parts = [(f"step {step:{len(str(total))}d}/{total}", 0)]
    parts += [
        (text.format(math.nan if (value := row[name]) is None else value), rank)
        for name, text, rank in _PARTS
        if name in row and (row[name] or name not in _TROUBLE)
    ]
    if "time/step_s" in row:
        parts.append((figures.seconds(row["time/step_s"]), 0))
    if times := stage_times(row):
        parts.append((f"({times})", _STAGES_GO))
    if "throughput/tokens_per_second" in row:
        parts.append((f"{figures.compact(row['throughput/tokens_per_second'])} tok/s", 0))
    if eta_s is not None:
        parts.append((f"eta {figures.duration(eta_s)}", 0))
    while len(line := "  ".join(text for text, _ in parts)) > width > 0:
        least = max(parts, key=lambda part: part[1])
        if not least[1]:
            break
        parts.remove(least)
    return line


def stage_times(row: Row) -> str:
    """``rollout 0.51 learn 0.48``: the stages that take at least a hundredth of the step."""
    least = (row.get("time/step_s") or 0.0) / 100
    return " ".join(
        f"{name} {seconds:.2f}"
        for name, seconds in stages(row).items()
        if name != "step" and seconds is not None and seconds >= least
    )
