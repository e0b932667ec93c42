"""The run's folder, which holds every metric."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from rlvr.telemetry.run_folder import RunFolder, write_text
from rlvr.telemetry.sinks.base import Row, Sink


class Files(Sink):
    """Writes ``config.yaml``, ``metrics.jsonl``, tables and ``summary.json``.

    A run whose record cannot be written ends, and says why.
    """

    def start(self, folder: RunFolder, config: Mapping[str, Any], step: int) -> None:
        """Write the configuration; what the folder records of later steps is removed."""
        self._folder = folder
        write_text(folder.config, OmegaConf.to_yaml(config))
        folder.rewind(step)

    def log(self, row: Row) -> None:
        self._folder.append(self._folder.metrics, [row])

    def table(self, name: str, step: int, rows: Sequence[Row]) -> None:
        """Add lines to the table's file: ``credit/tokens`` grows in ``tokens.jsonl``."""
        file = self._folder.path / f"{name.rsplit('/', 1)[-1]}.jsonl"
        self._folder.append(file, [{"step": step, **row} for row in rows])

    def summary(self, values: Row) -> None:
        write_text(self._folder.summary, json.dumps(values, indent=2) + "\n")
