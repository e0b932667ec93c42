"""What a sink is, and how one is found by its name."""

from collections.abc import Mapping, Sequence
from typing import Any

from rlvr.config import TelemetryConfig
from rlvr.errors import ConfigError
from rlvr.registry import Registry
from rlvr.telemetry.run_folder import RunFolder

Row = Mapping[str, Any]  # what JSON can say, None for NaN and infinity


class Sink:
    """Receives what a run has to say; a sink defines those of these methods that it cares for.

    One that raises is reported and turned off, and training goes on, so it need not catch
    anything; only a ConfigError or a RunError ends the run. The training loop waits for every
    call.
    """

    def start(self, folder: RunFolder, config: Mapping[str, Any], step: int) -> None:
        """Begin, or go on after ``step`` steps that an earlier run in ``folder`` has made."""

    def log(self, row: Row) -> None:
        """A row of metrics with its ``step`` and ``timestamp``: of a training step, or of an
        evaluation, whose metrics begin with ``evaluation/``.
        """

    def table(self, name: str, step: int, rows: Sequence[Row]) -> None:
        """Rows that belong to a step, at least one, all with the same keys."""

    def warn(self, step: int, name: str, words: str) -> None:
        """A guard's warning after a step."""

    def summary(self, values: Row) -> None:
        """What the run came to; only a run that reaches its end has one."""

    def close(self, finished: bool) -> None:
        """The last call, also after an error; ``finished``: the run reached its end."""


def why(error: Exception) -> str:
    """An error's reason in a line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


SINKS: Registry[Sink] = Registry("sink", "rlvr.telemetry.sinks")


def build_sinks(config: TelemetryConfig) -> dict[str, Sink]:
    """The sinks that ``config`` asks for, by name; ConfigError for an unknown one or option."""
    nodes: list[Any] = [{"name": n} if isinstance(n, str) else n for n in config.sinks]
    if config.wandb != "disabled":
        own = {"mode": str(config.wandb), "project": config.project, "run": config.name}
        nodes.insert(0, {"name": "wandb", **own})
    sinks: dict[str, Sink] = {}
    for node in nodes:
        if not isinstance(node, Mapping):
            raise ConfigError(f"telemetry.sinks: '{node}' is neither a name nor {{name: ...}}.")
        sinks[str(node.get("name"))] = SINKS.build(node, "telemetry.sinks")
    return sinks
