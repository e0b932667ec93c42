"""A place for actors on one machine of the cluster, and on another when that one is gone."""

from typing import Any

import ray
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy


class Place(PlacementGroupSchedulingStrategy):
    """Resources that are reserved on one machine; the scheduling strategy of who uses them.

    A group of its own, as a whole one can give back no part of itself: Ray would look for another
    machine for that part without a pause, on all of a core, and forget the health checks.

    Args:
        resources: what to reserve, as ``{"CPU": 1.0, "GPU": 2.0}``.
        machine: Ray id of the one to reserve it on; by default any.
    """

    def __init__(self, resources: dict[str, float], machine: str | None = None) -> None:
        self._resources = resources
        self.name = "no machine"  # and address, of the machine that it is or was on
        super().__init__(self._reserved(machine), placement_group_bundle_index=0)

    def there(self) -> bool:
        """Whether it has a machine; if that is gone, any other with room will be the next."""
        table = placement_group_table(self.placement_group)
        [machine] = table["bundles_to_node_id"].values()
        for node in ray.nodes():
            if node["NodeID"] == machine and node["Alive"]:
                self.name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
                return True
        if table["state"] != "PENDING":
            self.release()
            self.placement_group = self._reserved()
        return False

    def release(self) -> None:
        remove_placement_group(self.placement_group)

    def _reserved(self, machine: str | None = None) -> PlacementGroup:
        only: dict[str, Any] = {}
        if machine is not None:
            only = {"bundle_label_selector": [{"ray.io/node-id": machine}]}
        return placement_group([self._resources], strategy="STRICT_PACK", **only)
