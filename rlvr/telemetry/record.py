"""A run read back from its folder."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import yaml

from rlvr.errors import RunFolderError
from rlvr.telemetry.ledger import verdict
from rlvr.telemetry.run_folder import RunFolder
from rlvr.telemetry.timing import stages

Row = dict[str, Any]


def is_step(row: Mapping[str, Any]) -> bool:
    """Whether a row is that of a training step; the others are of evaluations."""
    return "rollout/reward_mean" in row


@dataclass(frozen=True)
class RunRecord:
    """What a run, finished or not, has written so far."""

    name: str
    steps: Sequence[Row]  # a row per training step
    evaluations: Sequence[Row]  # a row per evaluation
    summary: dict[str, Any] | None  # None: the run has not come to its end
    planned: int | None  # steps it was to make
    ledger: str | None = None  # what its ledger comes to; None: it has none

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read the folder ``path``; RunFolderError if it is no run's, or a file is damaged."""
        folder = RunFolder(path)
        if not folder.config.exists() and not folder.metrics.exists():
            raise RunFolderError(f"{path}: not a run's folder (no config.yaml, no metrics.jsonl).")
        rows = folder.read_metrics()
        for row in rows:
            if odd := [k for k, v in row.items() if not isinstance(v, int | float | None)]:
                told = f"{folder.metrics}, step {row['step']}: '{odd[0]}' is no number"
                raise RunFolderError(f"{told}. Repair or delete the line.")
        try:
            summary = json.loads(folder.summary.read_text()) if folder.summary.exists() else None
            config = yaml.safe_load(folder.config.read_text()) if folder.config.exists() else {}
            train = config.get("train", {})
            planned, size = (_count(train.get(key)) for key in ("steps", "prompts_per_step"))
        except (ValueError, RecursionError, AttributeError, yaml.YAMLError) as error:
            told = f"{path}: summary.json or config.yaml is damaged: {error}"
            raise RunFolderError(told) from error
        steps = [row for row in rows if is_step(row)]
        evaluations = [row for row in rows if any(k.startswith("evaluation/") for k in row)]
        ledger = verdict(folder.read_ledger(), size)
        name = str(path).rstrip("/")
        return cls(name, steps, evaluations, summary, planned, ledger)

    def series(self, metric: str) -> tuple[list[int], list[float]]:
        rows = self.evaluations if metric.startswith("evaluation/") else self.steps
        # A resumed run may repeat an evaluation; the last word counts.
        found = {row["step"]: row[metric] for row in rows if row.get(metric) is not None}
        return list(found), list(found.values())

    def ends(self, metric: str) -> tuple[float, float] | None:
        """Mean over the first and over the last tenth of the steps (at least 1, at most 10)."""
        _, values = self.series(metric)
        if not values:
            return None
        n = max(1, min(10, len(values) // 10))
        return sum(values[:n]) / n, sum(values[-n:]) / n

    @cached_property
    def before_after(self) -> dict[str, tuple[float, float]]:
        """The first and the last evaluation, of every measure.

        Greedy decoding's is ``accuracy``, that of k samples a prompt ``avg_at_<k>``.
        """
        pairs = {}
        for metric in dict.fromkeys(k for row in self.evaluations for k in row):
            _, values = self.series(metric)
            if metric.startswith("evaluation/") and values:
                name = metric.removeprefix("evaluation/").removesuffix("/accuracy")
                pairs["accuracy" if name == "greedy" else name] = (values[0], values[-1])
        return pairs

    @property
    def outcome(self) -> dict[str, float]:
        """What the rows say of the whole run, also where it was resumed, for ``summary.json``.

        ``eval_before``, ``eval_after``, ``avg_at_8_before``, ..., ``train_seconds`` and
        ``tokens_per_second``.
        """
        said = {}
        for name, pair in self.before_after.items():
            if "/" not in name:
                name = "eval" if name == "accuracy" else name
                said[f"{name}_before"], said[f"{name}_after"] = pair
        said["train_seconds"] = self.seconds
        return {**said, "tokens_per_second": self.tokens_per_second or 0.0}

    @property
    def seconds(self) -> float:
        return float(sum(self.series("time/step_s")[1]))

    @property
    def tokens_per_second(self) -> float | None:
        """Response tokens over the time of all steps."""
        rows = [r for r in self.steps if r.get("throughput/tokens_per_second") is not None]
        spent = sum(r["time/step_s"] for r in rows)
        tokens = sum(r["throughput/tokens_per_second"] * r["time/step_s"] for r in rows)
        return tokens / spent if spent else None

    @cached_property
    def stages(self) -> dict[str, float]:
        """Mean seconds of each stage a step."""
        names = dict.fromkeys(name for row in self.steps for name in stages(row))
        whole = {name: sum(self.series(f"time/{name}_s")[1]) for name in names}
        return {name: seconds / len(self.steps) for name, seconds in whole.items()}


def _count(value: object) -> int | None:
    if value is not None and type(value) is not int:
        raise ValueError(f"{value!r} is no number of steps or prompts")
    return value
