"""TensorBoard: ``tensorboard --logdir RUN/tensorboard``."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlvr.telemetry.run_folder import RunFolder
from rlvr.telemetry.sinks.base import SINKS, Row, Sink


@SINKS.register("tensorboard")
@dataclass
class TensorBoard(Sink):
    """Event files in the run's folder: curves, tables as text, the configuration as hparams."""

    def start(self, folder: RunFolder, config: Mapping[str, Any], step: int) -> None:
        """Open an event file; TensorBoard forgets what earlier ones say of later steps."""
        from tensorboardX import event_file_writer, proto, summary

        events = folder.path / "tensorboard" / "events"
        events.parent.mkdir(exist_ok=True)
        # Not SummaryWriter: a full disk ends its thread, and the run would wait for it forever.
        self._writer = event_file_writer.EventsWriter(str(events))
        self._proto, self._summary = proto, summary
        begin = proto.event_pb2.SessionLog(status=proto.event_pb2.SessionLog.START)
        self._write(step + 1, session_log=begin)
        for part in summary.hparams(dict(_flat(config)), {}):
            self._write(step, summary=part)

    def log(self, row: Row) -> None:
        value = self._proto.summary_pb2.Summary.Value
        points = [
            value(tag=name, simple_value=number)
            for name, number in row.items()
            if isinstance(number, int | float) and name not in ("step", "timestamp")
        ]
        self._write(row["step"], summary=self._proto.summary_pb2.Summary(value=points))

    def table(self, name: str, step: int, rows: Sequence[Row]) -> None:
        lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
        cells = [[str(cell).replace("|", r"\|") for cell in line] for line in lines]
        text = "\n".join(" | ".join(line) for line in cells)
        self._write(step, summary=self._summary.text(name, text))

    def warn(self, step: int, name: str, words: str) -> None:
        self._write(step, summary=self._summary.text(f"guards/{name}", words))

    def summary(self, values: Row) -> None:
        rows = [{"name": name, "value": value} for name, value in values.items()]
        self.table("summary", int(values.get("steps", 0)), rows)

    def close(self, finished: bool) -> None:
        self._writer.close()

    def _write(self, step: int, **content: Any) -> None:
        event = self._proto.event_pb2.Event(step=step, wall_time=time.time(), **content)
        self._writer.write_event(event)
        self._writer.flush()


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``learner.lr`` and its like, with values that an hparam can have."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            plain = value is None or isinstance(value, bool | int | float | str)
            yield prefix + key, value if plain else str(value)
