"""The folder of an audit: responses, values of prefixes as soon as they are known, the result."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from rlvr.evaluation.agreement import Agreement
from rlvr.evaluation.audit_batch import AuditBatch, Values
from rlvr.evaluation.audit_picture import draw
from rlvr.evaluation.effects import Effects
from rlvr.evaluation.intervals import Estimate
from rlvr.evaluation.settings import begin
from rlvr.telemetry.run_folder import replacing, write_text, writing
from rlvr.types import Prompt

Result = Mapping[str, Mapping[str, Agreement]]  # by method and side
_COLUMNS = {
    "correlation": "correlation",
    "auc": "AUC",
    "ndcg": "NDCG",
    "gradient_share": "gradient",
}


class AuditFolder:
    """``settings.json``, ``responses.parquet``, ``values/*.parquet``, and at the end
    ``effects.parquet`` (a row a token), ``result.json``, ``result.md`` and ``result.png``.

    An audit that was interrupted goes on: prefixes that have their values are not continued again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._batch = path / "responses.parquet"

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Begin, or go on with, the audit that ``settings`` describe; RunFolderError if the
        folder holds another one."""
        begin(self.path, settings, "audit")

    def batch(self, prompts: Mapping[str, Prompt]) -> AuditBatch | None:
        """The responses that are audited; None: they have not been sampled."""
        if not self._batch.exists():
            return None
        return AuditBatch.read(parquet.read_table(self._batch), prompts)

    def keep_batch(self, batch: AuditBatch) -> None:
        self._write(self._batch, batch.table())

    def values(self) -> dict[tuple[int, int], Any]:
        """What is known so far."""
        found = {}
        for part in self._parts():
            for row in parquet.read_table(part).to_pylist():
                found[row["response"], row["tokens"]] = row["rewards"]
        return {key: np.array(own, np.float64) for key, own in found.items()}

    def keep_values(self, values: Values) -> None:
        """Add what has become known."""
        columns = {
            "response": [response for response, _ in values],
            "tokens": [tokens for _, tokens in values],
            "rewards": [rewards.tolist() for rewards in values.values()],
        }
        path = self.path / "values" / f"part_{len(self._parts()):05d}.parquet"
        self._write(path, pa.table(columns))

    def finish(self, title: str, batch: AuditBatch, effects: Effects, result: Result) -> str:
        """Write the ``result``, the methods' agreement with the effects; returns its table."""
        self._write(self.path / "effects.parquet", effects_table(batch, effects))
        told = {
            name: {side: {k: _plain(e) for k, e in own.items()} for side, own in by.items()}
            for name, by in result.items()
        }
        summary = {
            "tokens": len(effects.delta),
            "decisive": int(effects.decisive.sum()),
            "reliability": _number(effects.reliability),
            "seconds": dict(batch.seconds),
            "methods": told,
        }
        write_text(self.path / "result.json", json.dumps(summary, indent=2) + "\n")
        table = markdown(title, effects, result)
        write_text(self.path / "result.md", table)
        try:
            draw(result, self.path / "result.png")
        except ImportError:
            print(f"{self.path}: no picture; it needs matplotlib: pip install matplotlib")
        return table

    def _parts(self) -> list[Path]:
        return sorted((self.path / "values").glob("part_*.parquet"))

    def _write(self, path: Path, table: pa.Table) -> None:
        with writing(path), replacing(path) as temporary:
            parquet.write_table(table, temporary, compression="zstd")


def effects_table(batch: AuditBatch, effects: Effects) -> pa.Table:
    """A row for each audited token."""
    at = list(zip(effects.response.tolist(), effects.position.tolist(), strict=True))
    ids = [int(batch.samples[r].response.token_ids[t]) for r, t in at]
    columns: dict[str, Any] = {
        "response": effects.response,
        "position": effects.position,
        "token_id": ids,
        "advantage": effects.advantage,
        "delta": effects.delta,
        "low": effects.low,
        "high": effects.high,
        "decisive": effects.decisive,
    }
    return pa.table({**columns, **{f"coefficient:{k}": c for k, c in effects.coefficients.items()}})


def markdown(title: str, effects: Effects, result: Result) -> str:
    """A table: a row a method and side, a column a figure, with its interval."""
    share = effects.decisive.mean()
    lines = [
        f"# {title}",
        "",
        f"{len(effects.delta):,} tokens of {len(set(effects.response.tolist())):,} responses; "
        f"{share:.1%} of them are decisive. Reliability of the effects: {effects.reliability:.2f}.",
        "",
        f"| credit | advantage | {' | '.join(_COLUMNS.values())} |",
        "|---|---|" + "---|" * len(_COLUMNS),
    ]
    for name, by_side in result.items():
        for side, own in by_side.items():
            cells = " | ".join(_cell(own[k]) for k in _COLUMNS)
            lines.append(f"| {name} | {side} | {cells} |")
    lines += [
        "",
        "Correlation of the ranks of c_t A_i and of what the token did to the outcome; AUC and "
        "NDCG of finding the decisive tokens of a response by c_t; the share of the gradient that "
        "pushes them their way. With the 95 % interval of a bootstrap over responses.",
    ]
    return "\n".join(lines) + "\n"


def _plain(e: Estimate) -> dict[str, float | None]:
    return {key: _number(value) for key, value in asdict(e).items()}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value


def _cell(e: Estimate) -> str:
    if np.isnan(e.value):
        return "-"
    return f"{e.value:.2f}" + ("" if np.isnan(e.low) else f" [{e.low:.2f}, {e.high:.2f}]")
