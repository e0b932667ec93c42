"""What vLLM's own trainer engines are given in the place of a connection to the engines.

They make the control calls to the inference side themselves, on a thread whose error nobody sees
while the collective waits. Here the driver makes those calls (see ``rlvr.weights.publish``),
where their errors and their time-out surface.
"""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class ListeningClient:
    """vLLM's ``VLLMWeightSyncClient`` without an engine behind it: keeps what it is told."""

    updates: list[Any] = field(default_factory=list)

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """The driver initialises the engines."""

    def start_weight_update(self) -> None:
        """The driver starts the update."""

    def update_weights(self, update_info: dict[str, Any] | list[dict[str, Any]]) -> None:
        """Keep the update for the driver to deliver."""
        self.updates.append(update_info)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """The driver finishes the update."""
