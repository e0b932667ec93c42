"""Runs as a page shows them: their curves, tables and responses."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from rlvr.config import GuardsConfig
from rlvr.registry import labelled
from rlvr.telemetry.guards import Guards
from rlvr.telemetry.metrics import json_clean
from rlvr.telemetry.page.families import families
from rlvr.telemetry.page.page import page_html
from rlvr.telemetry.page.shown import PAGE_TOKENS, ShownResponses
from rlvr.telemetry.progress import phase
from rlvr.telemetry.record import RunRecord
from rlvr.telemetry.run_folder import RunFolder, write_text
from rlvr.telemetry.table import run_column

Planned = Callable[[RunRecord], Mapping[str, tuple[float, float]] | None]  # stages' seconds


NO_STEPS: dict[str, Any] = {  # what a run has, of something else with responses
    "steps": [], "series": {}, "evaluations": {}, "table": [], "stages": [], "warnings": [],
    "figures": [],
}  # fmt: skip


@dataclass(frozen=True)
class EvaluationRecord:
    """What ``rlvr evaluate`` has left in the folder ``name``."""

    name: str
    figures: Sequence[Sequence[str]]  # rows of its table, the heads first


class RunsPage:
    """A page of runs, written as often as they go on, and of evaluations.

    Args:
        path: the HTML file.
        planned: the stages of a run as planned and as measured, where there is a plan.
    """

    def __init__(self, path: Path, planned: Planned) -> None:
        self._path = path
        self._planned = planned
        self._shown: dict[str, ShownResponses] = {}

    def write(
        self,
        records: Sequence[RunRecord],
        refresh_s: float = 0,
        evaluations: Sequence[EvaluationRecord] = (),
    ) -> None:
        """Write the page as all is now; one that is to ``refresh`` itself does so."""
        configurations = [_configuration(record) for record in records]
        related = families(configurations, [record.name for record in records])
        blocks: dict[str, str] = {}
        runs: list[dict[str, Any]] = []
        room = PAGE_TOKENS // (len(records) + len(evaluations))
        for record, configuration in zip(records, configurations, strict=True):
            methods = _methods(configuration)
            shown = self._responses(len(runs), record.name, record.planned, room, methods, blocks)
            runs.append(
                {**self._run(record, configuration), "methods": methods, "responses": shown}
            )
        for evaluation in evaluations:
            shown = self._responses(len(runs), evaluation.name, None, room, [""], blocks)
            own = {**NO_STEPS, "name": evaluation.name, "figures": evaluation.figures}
            runs.append({**own, "methods": [""], "responses": shown})
        content = {
            "made": time.strftime("%Y-%m-%d %H:%M:%S"),
            "refresh": refresh_s,
            "runs": runs,
            "families": [{"label": label, "runs": own} for label, own in related],
        }
        title = ", ".join(run["name"] for run in runs)
        write_text(self._path, page_html(title, content, blocks))

    def _responses(
        self,
        number: int,
        name: str,
        steps: int | None,
        room: int,
        methods: Sequence[str],
        blocks: dict[str, str],
    ) -> dict[str, list[tuple[int, int, int]]]:
        """Put what is shown into ``blocks``; by training or measure, of each step how many."""
        if name not in self._shown:
            self._shown[name] = ShownResponses(Path(name), steps, room, methods[1:])
        with phase(f"reading the responses of {name}"):
            found = self._shown[name].blocks()
        told: dict[str, list[tuple[int, int, int]]] = {}
        for of, steps_of in found.items():
            told[of] = []
            for block in filter(None, steps_of):
                blocks[f"responses-{number}-{of}-{block.step}"] = block.packed
                told[of].append((block.step, block.responses, block.all_responses))
        return told

    def _run(self, record: RunRecord, configuration: Mapping[str, Any]) -> dict[str, Any]:
        metrics = dict.fromkeys(key for row in record.steps for key in row)
        evaluated = dict.fromkeys(key for row in record.evaluations for key in row)
        planned = self._planned(record) or {}
        run = {
            "name": record.name,
            "figures": [],
            "steps": [row["step"] for row in record.steps],
            "series": {
                metric: [row.get(metric) for row in record.steps]
                for metric in metrics
                if metric not in ("step", "timestamp")
            },
            "evaluations": {
                metric: record.series(metric)
                for metric in evaluated
                if metric.startswith("evaluation/")
            },
            "table": list(run_column(record).items()),
            "stages": [
                [name, measured, planned.get(name, (None,))[0]]
                for name, measured in record.stages.items()
            ],
            "warnings": _warnings(record, configuration),
        }
        return json_clean(run)


def _configuration(record: RunRecord) -> dict[str, Any]:
    file = RunFolder(record.name).config
    return (yaml.safe_load(file.read_text()) if file.exists() else None) or {}


def _methods(configuration: Mapping[str, Any]) -> list[str]:
    """Labels of the credit method in use, and of those computed beside it."""
    used = str(_in(configuration, "credit", "name") or "credit")
    shadows = _in(configuration, "shadow", "credits") or []
    labels = [labelled(own, "shadow.credits")[0] for own in shadows]
    return [f"{used} (in use)" if labels else used, *labels]


def _warnings(record: RunRecord, configuration: Mapping[str, Any]) -> list[tuple[int, str]]:
    """What the run's guards told, with the step."""
    limits = _in(configuration, "telemetry", "guards") or {}
    known = {f.name for f in fields(GuardsConfig)}
    guards = Guards(GuardsConfig(**{k: v for k, v in limits.items() if k in known}))
    return [(row["step"], words) for row in record.steps for words in guards.look(row).values()]


def _in(node: Any, *path: str) -> Any:
    """What stands at ``path``, None if nothing does."""
    for key in path:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node
