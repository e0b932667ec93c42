"""Where a run's metrics go: one file a sink; ``base`` says what a sink is."""

from rlvr.telemetry.sinks.base import SINKS, Row, Sink

__all__ = ["SINKS", "Row", "Sink"]
