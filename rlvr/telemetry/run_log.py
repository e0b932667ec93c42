"""All that a run records and shows, behind a handful of calls."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from rlvr.config import RunConfig, TelemetryConfig
from rlvr.errors import ResponseLogError
from rlvr.telemetry import figures
from rlvr.telemetry.metrics import json_clean, rollout_metrics, throughput
from rlvr.telemetry.progress import Progress
from rlvr.telemetry.record import RunRecord
from rlvr.telemetry.responses import ResponseLog
from rlvr.telemetry.run_folder import RunFolder, write_text
from rlvr.telemetry.table import comparison
from rlvr.telemetry.tracker import Tracker
from rlvr.types import Group


class Telemetry:
    """Writes the run's folder, feeds wandb, and prints.

    Steps count from 1: step k turns policy version k − 1 into version k. An evaluation at step k
    is of version k, so 0 is the policy that the run began with.
    """

    def __init__(self, config: TelemetryConfig, folder: RunFolder) -> None:
        """Set up; nothing is written before ``start``."""
        self._config = config
        self._folder = folder
        self._tracker = Tracker(config, folder)
        self._responses = ResponseLog()
        self._progress: Progress | None = None
        self._finished = False

    def start(self, config: RunConfig | DictConfig, step: int = 0) -> None:
        """Write ``config.yaml`` and begin, after ``step`` steps that an earlier run has made.

        What the folder records of later steps is removed: they will be made again.
        """
        node = config if isinstance(config, DictConfig) else OmegaConf.structured(config)
        write_text(self._folder.config, OmegaConf.to_yaml(node, resolve=True))
        self._folder.rewind(step)
        resolved: Any = OmegaConf.to_container(node, resolve=True, enum_to_str=True)
        self._tracker.start(resolved)
        self._progress = Progress(config.train.steps, done=step, bar=self._config.progress)

    async def step(
        self,
        step: int,
        groups: Sequence[Group],
        advantages: np.ndarray,
        texts: Sequence[str],
        metrics: Mapping[str, float],
        timings: Mapping[str, float],
        tokens: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Record and show a finished training step.

        Args:
            step: the step's number, from 1.
            groups: its rollout batch.
            advantages: [S] A_i in sample order.
            texts: [S] the responses as text, in sample order.
            metrics: what the other stages measured (``update/loss``, ``mismatch/kl``, ...).
            timings: a lap of the ``Stopwatch``.
            tokens: those whose credit stands out, as ``token_rows`` has them.

        Raises:
            ResponseLogError: the responses of the step before could not be written.
        """
        if step < 1:
            raise ValueError(f"steps count from 1, got {step}")
        row = {
            **rollout_metrics(groups, version=step - 1),
            **metrics,
            **timings,
            **throughput(groups, timings),
        }
        lost = self._record(step, row)
        if self._progress is not None:
            self._progress.advance(step, {**row, **lost})
        if tokens and self._config.log_responses:
            self._folder.append_tokens([json_clean({"step": step, **row}) for row in tokens])
            self._tracker.table("credit/tokens", step, tokens)
        if self._config.log_responses:
            path = self._folder.responses(step)
            await self._responses.write(path, step, groups, texts, advantages)

    async def evaluation(
        self,
        step: int,
        name: str,
        results: Mapping[str, float],
        groups: Sequence[Group] = (),
        texts: Sequence[str] = (),
    ) -> None:
        """Record and show an evaluation; with ``groups`` and ``texts`` also its responses."""
        self._record(step, {f"evaluation/{name}/{key}": value for key, value in results.items()})
        shown = "  ".join(f"{key} {figures.figure(key, value)}" for key, value in results.items())
        print(f"evaluation after step {step}: {name}  {shown}", flush=True)
        if groups and self._config.log_responses:
            path = self._folder.evaluation(step, name)
            await self._responses.write(path, step, groups, texts)

    def summary(self, values: Mapping[str, Any]) -> None:
        """Write ``summary.json``, end the progress and print the run's table."""
        cleaned = json_clean(values)
        write_text(self._folder.summary, json.dumps(cleaned, indent=2) + "\n")
        self._tracker.summary(cleaned)
        self._finished = True
        self._end_progress()
        print(f"\n{comparison([RunRecord.read(self._folder.path)])}\n", flush=True)

    def close(self) -> None:
        """End what is under way; the last call, also after an error."""
        self._end_progress()
        try:
            self._responses.close()
        except ResponseLogError as error:  # raising it would hide why the run ends
            print(f"telemetry: {error}", flush=True)
        self._tracker.close(self._finished)

    def _record(self, step: int, values: Mapping[str, Any]) -> dict[str, int]:
        """Write and track a row; returns ``nonfinite`` if there is any."""
        row = json_clean({"step": step, "timestamp": round(time.time(), 3), **values})
        self._folder.append_metrics(row)
        self._tracker.log(row)
        return {key: row[key] for key in ("nonfinite",) if key in row}

    def _end_progress(self) -> None:
        if self._progress is not None:
            self._progress.close()
            self._progress = None
