"""All that a run records and shows, behind a handful of calls."""

import json
import time
from collections.abc import Mapping, Sequence
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from rlvr.config import RunConfig, TelemetryConfig
from rlvr.errors import ResponseLogError
from rlvr.telemetry.guards import Guards
from rlvr.telemetry.metrics import json_clean, rollout_metrics, throughput
from rlvr.telemetry.record import RunRecord
from rlvr.telemetry.responses import ResponseLog
from rlvr.telemetry.run_folder import RunFolder, write_text
from rlvr.telemetry.sinks.base import build_sinks
from rlvr.telemetry.sinks.console import Console
from rlvr.telemetry.sinks.fan_out import FanOut
from rlvr.telemetry.tokens import LoggedTokens
from rlvr.types import Group


class Telemetry:
    """Makes the rows of a run, writes them to its folder and hands them to every sink.

    A run whose folder cannot be written ends, and says why; no sink can end it.

    Steps count from 1: step k turns policy version k − 1 into version k. An evaluation at step k
    is of version k, so 0 is the policy that the run began with.
    """

    def __init__(self, config: TelemetryConfig, folder: RunFolder) -> None:
        """Nothing is written before ``start``; ConfigError for a sink that is unknown."""
        self._log_responses = config.log_responses
        self._folder = folder
        console = Console(bar=config.progress)
        self._sinks = FanOut({"console": console, **build_sinks(config)})
        self._guards = Guards(config.guards)
        self._responses = ResponseLog()
        self._finished = False

    def start(self, config: RunConfig, step: int = 0) -> None:
        """Begin, after ``step`` steps that an earlier run has made.

        What the folder records of later steps is removed: they will be made again.
        """
        node = OmegaConf.structured(config)
        resolved: Any = OmegaConf.to_container(node, resolve=True, enum_to_str=True)
        write_text(self._folder.config, OmegaConf.to_yaml(resolved))
        self._folder.rewind(step)
        for row in self._folder.read_metrics():  # what was told of them was told then
            self._guards.look(row)
        self._sinks.start(self._folder, resolved, step)

    def trained_on(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Enter the groups of a step into the ledger; before its checkpoint, if it has one."""
        self._folder.append(self._folder.ledger, entries)

    async def step(
        self,
        step: int,
        groups: Sequence[Group],
        advantages: np.ndarray,
        metrics: Mapping[str, float],
        timings: Mapping[str, float],
        tokens: LoggedTokens | None = None,
    ) -> None:
        """Record and show a finished training step.

        ``metrics`` are what the other stages measured, ``timings`` a lap of the ``Stopwatch``,
        ``tokens`` what there is to log of the responses' tokens. Raises ResponseLogError if the
        responses of the step before could not be written.
        """
        if step < 1:
            raise ValueError(f"steps count from 1, got {step}")
        sampled = rollout_metrics(groups, version=step - 1)
        values = {**sampled, **metrics, **timings, **throughput(groups, timings)}
        warnings = self._guards.look(json_clean(values))
        self._log(step, {**values, "guards/active": self._guards.active})
        for name, words in warnings.items():
            self._sinks.tell(methodcaller("warn", step, name, words))
        if self._log_responses:
            if tokens and tokens.standing_out:
                cleaned = [json_clean(token) for token in tokens.standing_out]
                self._folder.append(self._folder.tokens, [{"step": step, **t} for t in cleaned])
                self._sinks.tell(lambda sink: sink.table("credit/tokens", step, cleaned))
            path = self._folder.responses(step)
            await self._responses.write(path, step, groups, advantages, tokens)

    async def evaluation(
        self, step: int, name: str, results: Mapping[str, float], groups: Sequence[Group] = ()
    ) -> None:
        """Record and show an evaluation; with ``groups`` also its responses."""
        self._log(step, {f"evaluation/{name}/{key}": value for key, value in results.items()})
        if groups and self._log_responses:
            await self._responses.write(self._folder.evaluation(step, name), step, groups)

    def evaluated(self, step: int) -> set[str]:
        """Names of the evaluations of ``step`` that are on record."""
        rows = [row for row in self._folder.read_metrics() if row["step"] == step]
        return {key.split("/")[1] for row in rows for key in row if key.startswith("evaluation/")}

    def series(self, name: str) -> list[float]:
        """The values of a metric so far."""
        return [row[name] for row in self._folder.read_metrics() if name in row]

    def audit(self, step: int) -> Path:
        """The folder of an audit of the credit after ``step``."""
        return self._folder.path / "audit" / f"step_{step:06d}"

    def checkpoint(self, step: int, delay_s: float, write_s: float, size: int) -> None:
        """Record a checkpoint that is whole: what it took of the training, and what beside it."""
        times = {"time/checkpoint_s": delay_s, "time/checkpoint_write_s": write_s}
        self._log(step, {**times, "checkpoint/gb": size / 1e9})

    def summary(self, values: Mapping[str, Any]) -> None:
        """End a run that reached its end: ``values``, and what its rows say of it."""
        cleaned = json_clean({**values, **RunRecord.read(self._folder.path).outcome})
        self._finished = True
        write_text(self._folder.summary, json.dumps(cleaned, indent=2) + "\n")
        self._sinks.tell(lambda sink: sink.summary(cleaned))

    def close(self) -> None:
        """End what is under way; the last call, also after an error."""
        try:
            self._responses.close()
        except ResponseLogError as error:  # raising it would hide why the run ends
            print(f"telemetry: {error}", flush=True)
        self._sinks.close(self._finished)

    def _log(self, step: int, values: Mapping[str, Any]) -> None:
        row = json_clean({"step": step, "timestamp": round(time.time(), 3), **values})
        self._folder.append(self._folder.metrics, [row])
        self._sinks.tell(lambda sink: sink.log(row))
