"""The folder of an evaluation: every response as soon as its question is done, and the result."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from rlvr.errors import RunError, RunFolderError
from rlvr.evaluation.answers import Answers
from rlvr.evaluation.estimators import figures, sizes
from rlvr.evaluation.intervals import Estimate, estimate
from rlvr.evaluation.settings import begin
from rlvr.telemetry.responses import response_table
from rlvr.telemetry.run_folder import replacing, write_text
from rlvr.types import Group

_COLUMNS = ["prompt_id", "source", "verifier", "outcome", "detail"]


class EvaluationFolder:
    """``settings.json``, ``responses/MEASURE/*.parquet``, ``result.json`` and ``result.md``.

    MEASURE is ``greedy`` or ``avg_at_N``. An evaluation that was interrupted goes on: what is asked
    of whom stands in the settings, and questions that have their responses are not asked again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Begin, or go on with, the evaluation that ``settings`` describe.

        Raises RunFolderError if the folder holds another one.
        """
        begin(self.path, settings, "evaluation")

    def add(self, measure: str, groups: Sequence[Group], step: int) -> None:
        """Keep the responses of ``groups``, whole or not at all."""
        folder = self.path / "responses" / measure
        file = folder / f"part_{len(self._parts(measure)):05d}.parquet"
        try:
            with replacing(file) as temporary:
                table = response_table(step, groups)
                parquet.write_table(table, temporary, compression="zstd")
        except (OSError, pa.ArrowException) as error:
            raise RunError(f"{file} could not be written: {error}. Make room there.") from error

    def answers(self, measure: str) -> Answers | None:
        """What became of the questions that are done; None if none is."""
        if not (parts := self._parts(measure)):
            return None
        judged: dict[str, tuple[str, str, str, list[tuple[str, str]]]] = {}
        for part in parts:
            try:
                rows = parquet.read_table(part, columns=_COLUMNS).to_pylist()
            except (OSError, pa.ArrowException) as error:
                raise RunFolderError(
                    f"{part} is damaged: {error}. Delete it: its questions are then asked again."
                ) from error
            for row in rows:
                question = row["prompt_id"], row["source"], row["verifier"]
                judged.setdefault(question[0], (*question, []))[3].append(
                    (row["outcome"], row["detail"])
                )
        return Answers.judged(judged.values())

    def measures(self) -> dict[str, Answers]:
        """The answers of every measure that has been taken."""
        taken = sorted(folder.name for folder in (self.path / "responses").glob("*"))
        found = {name: self.answers(name) for name in reversed(taken)}
        return {name: answers for name, answers in found.items() if answers is not None}

    def finish(self, title: str) -> str:
        """Write the result; returns its table, in Markdown."""
        result = estimates(self.measures())
        flat = {
            measure: {
                source: {name: asdict(e) for name, e in own.items()} for source, own in by.items()
            }
            for measure, by in result.items()
        }
        write_text(self.path / "result.json", json.dumps(flat, indent=2) + "\n")
        table = markdown(title, result)
        write_text(self.path / "result.md", table)
        return table

    def _parts(self, measure: str) -> list[Path]:
        return sorted((self.path / "responses" / measure).glob("part_*.parquet"))


Estimates = dict[str, dict[str, dict[str, Estimate]]]  # measure -> source -> figure


def estimates(measures: Mapping[str, Answers]) -> Estimates:
    """Every figure with its interval: overall, and by source where there are several."""
    return {
        measure: {
            source: {name: estimate(values) for name, values in figures(own).items()}
            for source, own in {"all": answers, **answers.by_source()}.items()
        }
        for measure, answers in measures.items()
    }


def table(result: Estimates) -> list[list[str]]:
    """A row a source, a column a figure, in percent with the 95 % interval; the heads first."""
    columns = {
        (measure, name): (measure if name == "accuracy" else name).replace("_at_", "@")
        for measure, by_source in result.items()
        for name in _shown(by_source["all"])
    }
    sources = list(next(iter(result.values()))) if result else []
    rows = [["", *columns.values()]]
    for source in [*sources[1:], *sources[:1]]:
        cells = [_cell(result[m].get(source, {}).get(name)) for m, name in columns]
        rows.append([source, *cells])
    return rows


def markdown(title: str, result: Estimates) -> str:
    """The table, and what it says."""
    heads, *rows = (f"| {' | '.join(row)} |".replace("|  |", "| |") for row in table(result))
    line = "|---" * (heads.count("|") - 1) + "|"
    told = "Percent, with the 95 % interval of a bootstrap over questions."
    return "\n".join([f"# {title}", "", heads, line, *rows, "", told]) + "\n"


def _shown(own: Mapping[str, Estimate]) -> list[str]:
    """Of pass@k not every k."""
    shown = {f"pass_at_{k}" for k in sizes(sum(n.startswith("pass") for n in own) + 1)}
    return [n for n in own if not n.startswith("pass") or n in shown]


def _cell(e: Estimate | None) -> str:
    return "-" if e is None else f"{100 * e.value:.1f} [{100 * e.low:.1f}, {100 * e.high:.1f}]"
