"""Where each actor goes, and which of them have a machine when one is gone."""

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlvr.config import RunConfig
from rlvr.errors import RunError
from rlvr.loop.resolve import shares_gpus
from rlvr.place import Place
from rlvr.telemetry.progress import phase

Options = dict[str, Any]

_POLL_S = 1.0


@dataclass(frozen=True)
class Placement:
    """Ray options of every actor, and the places behind them."""

    learners: list[Options]
    engines: list[Options]
    verifiers: Options
    places: Sequence[Place]

    def release(self) -> None:
        for place in self.places:
            place.release()

    def left(self, config: RunConfig) -> tuple[list[Options], list[Options]]:
        """Options of the ranks that have a machine, and of the engines.

        As many ranks as ``learner.sequence_parallel`` allows; on shared GPUs, engines on theirs.
        """
        there = {place for place in self.places if place.there()}
        ranks, engines = (
            [o for o in kind if o["scheduling_strategy"] in there]
            for kind in (self.learners, self.engines)
        )
        per_engine = config.rollout.tensor_parallel if shares_gpus(config) else 1
        together = math.lcm(config.learner.sequence_parallel, per_engine)
        ranks = ranks[: len(ranks) // together * together]
        return ranks, engines[: len(ranks) // per_engine] if shares_gpus(config) else engines

    async def settled(self, config: RunConfig) -> tuple[list[Options], list[Options]]:
        """What is ``left`` for ranks to start on, at once or after ``cluster.rejoin_s``.

        Raises RunError if that is no rank, or colocated fewer engines than the run needs.
        """
        colocated = config.cluster.placement == "colocated"
        needed = [*self.learners, *(self.engines if colocated else ())]
        patience = config.cluster.rejoin_s
        end = time.monotonic() + patience
        if gone := _gone(needed):
            with phase(f"waiting {patience:g} s for a machine in place of {gone}"):
                while _gone(needed) and time.monotonic() < end:
                    await asyncio.sleep(_POLL_S)
        ranks, engines = self.left(config)
        if not ranks or (colocated and len(engines) < config.rollout.min_workers):
            raise RunError(
                f"{gone} is gone, and nothing has come in its place for cluster.rejoin_s="
                f"{patience:g}. What is left has room for {len(ranks)} of {len(self.learners)} "
                f"learner ranks (learner.sequence_parallel={config.learner.sequence_parallel}) and "
                f"{len(engines)} of {len(self.engines)} engines (rollout.min_workers="
                f"{config.rollout.min_workers}). Start Ray there again, or on another machine, and "
                "go on with train.resume=auto."
            )
        if gone := _gone(needed):
            print(
                f"{gone} is gone: the learner has {len(ranks)} of {len(self.learners)} ranks until "
                "there is another.",
                flush=True,
            )
        return ranks, engines


def _gone(options: Sequence[Options]) -> str:
    """The machines that these actors have lost."""
    places: set[Place] = {o["scheduling_strategy"] for o in options}
    return ", ".join(sorted({place.name for place in places if not place.there()}))
