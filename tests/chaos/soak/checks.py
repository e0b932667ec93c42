"""What must be true of a run that was disturbed, and is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import pyarrow.parquet as pq
import yaml

from rlvr.errors import RunFolderError
from rlvr.telemetry.ledger import verdict
from rlvr.telemetry.record import RunRecord, is_step
from tests.chaos.soak import plugins
from tests.chaos.soak.memory import Memory
from tests.chaos.soak.run import Run
from tests.chaos.soak.undisturbed import known

LEAST_SPREAD = 0.02  # of accuracy, on 256 problems


class Check(NamedTuple):
    """One line of the table."""

    what: str
    holds: bool
    told: str


def checks(run: Run, memory: Memory) -> Iterator[Check]:
    """All of them; one that cannot be made does not hold."""
    made: list[tuple[str, Callable[[], tuple[bool, str]]]] = [
        ("each group trained on once", lambda: _ledger(run)),
        ("each step recorded once", lambda: _steps(run)),
        ("what is not finite is told", lambda: _skipped(run)),
        ("damaged checkpoints are named", lambda: _named(run)),
        ("memory does not grow", lambda: _memory(memory)),
    ]
    if not any(word.startswith("model.path=") for word in run.overrides):
        made.append(("accuracy as undisturbed", lambda: _accuracy(run)))
    for what, check in made:
        try:
            yield Check(what, *check())
        except (RunFolderError, OSError, KeyError, ValueError, IndexError) as error:
            yield Check(what, False, repr(error))


def _ledger(run: Run) -> tuple[bool, str]:
    train = yaml.safe_load(run.folder.config.read_text())["train"]
    size, steps = train["prompts_per_step"], train["steps"]
    rows = run.folder.read_ledger()
    told = verdict(rows, size) or "empty"
    of_steps = {row["step"] for row in rows}
    whole = of_steps == set(range(1, steps + 1)) and len(rows) >= size * steps
    if train["max_staleness"] == 0 and not train["dynamic_sampling"]:
        whole &= {row["draw"] for row in rows} == set(range(size * steps))
    return whole and "BROKEN" not in told, told


def _steps(run: Run) -> tuple[bool, str]:
    record = RunRecord.read(run.folder.path)
    recorded = [row["step"] for row in run.folder.read_metrics() if is_step(row)]
    rows = record.steps[0]["rollout/responses"]
    responses = [pq.read_metadata(run.folder.responses(s)).num_rows for s in recorded]
    holds = recorded == list(range(1, (record.planned or 0) + 1)) and record.summary is not None
    return holds and set(responses) == {rows}, f"{len(recorded)}, with {rows:g} responses each"


def _skipped(run: Run) -> tuple[bool, str]:
    ordered = run.not_finite - (run.orders / plugins.NOT_FINITE).exists()
    told = run.log.read_text().count(": skipped 1 optimizer steps, since ")
    return told == ordered, f"{told} updates skipped, of {ordered} that were spoiled"


def _named(run: Run) -> tuple[bool, str]:
    log = run.log.read_text()
    named = [name for name in run.damaged if f"{name} is left out" in log]
    return named == run.damaged, f"{len(named)} of {len(run.damaged)}"


def _accuracy(run: Run) -> tuple[bool, str]:
    """No less than the lowest of three undisturbed seeds, by more than these are apart."""
    steps, values = RunRecord.read(run.folder.path).series("evaluation/greedy/accuracy")
    last, reached = steps[-1], values[-1]
    at = max(step for step in known() if step <= last)
    others = known()[at]
    spread = max(max(others) - min(others), LEAST_SPREAD)
    beside = f"{min(others):.1%} to {max(others):.1%} undisturbed at {at}"
    return reached >= min(others) - spread, f"{reached:.1%} at step {last}; {beside}"


def _memory(memory: Memory) -> tuple[bool, str]:
    grown, told = [], []
    for kind, lives in sorted(memory.lives().items()):
        worst = max(lives, key=lambda life: (life.grows, life.slope))
        grown += [kind] if worst.grows else []
        more = f" ({worst.mib[0]:.0f} to {worst.mib[-1]:.0f} MiB)" if worst.grows else ""
        told.append(f"{kind} {worst.slope:+.2f}{more}")
    every = ", ".join(told) or "none lived long"
    return not grown, f"MiB a minute, the worst of each kind: {every}"


def made_again(run: Run) -> int:
    """Steps that were made more than once."""
    return sum(max(0, a.number - b.number + 1) for a, b in pairwise(run.steps))
