"""What a weight backend is, and how one is found by its name.

A backend is one class in one file, as a credit method is::

    @WEIGHT_BACKENDS.register("mine")
    class Mine(WeightBackend):
        concurrent = False
        engine = "my_package.engine:MyWeightTransferEngine"

        def send(self, version):
            ...

Those of other packages are found through the entry-point group ``rlvr.weights``.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from rlvr.config import ClusterConfig
from rlvr.registry import Registry
from rlvr.weights.source import ShardedWeightSource

_AUTO = ("nccl", "ipc", "object_store")  # on every cluster one of them can run


@dataclass(frozen=True)
class Meeting:
    """Where learner rank 0, which is number 0, and the engines behind it can form a group."""

    address: str
    port: int
    size: int


class WeightBackend(ABC):
    """How a policy version travels from the learner's shards into the engines.

    The class tells the driver what it must know. Every learner rank has an instance and calls
    it in step with the others, since reading the source is a collective; what rank 0 yields
    reaches the engines, as the update information of their side of the transfer.
    """

    concurrent: ClassVar[bool]
    """Whether it sends while the engines receive, so that they are told beforehand, by
    ``announce``. The others leave the weights where the engines find them and tell where, by
    what ``send`` yields."""

    engine: ClassVar[str | None] = None
    """``module:class`` of vLLM's end, a ``WeightTransferEngine``; None for one that vLLM has
    itself under the backend's name."""

    def __init__(self, source: ShardedWeightSource, rank: int, meeting: Meeting) -> None:
        self.source = source
        self.rank = rank

    @staticmethod
    def refusal(cluster: ClusterConfig) -> str | None:
        """Why it cannot run on ``cluster``, to follow ``weights.backend=mine``; None if it can."""
        return None

    @classmethod
    def engine_init_info(cls, meeting: Meeting, first_rank: int) -> dict[str, Any]:
        """What vLLM's end is initialised with; ``first_rank`` is its engine's first GPU's."""
        return {}

    def announce(self) -> dict[str, Any]:
        """What the engines must know before a concurrent send; the same for every version."""
        return {}

    @abstractmethod
    def send(self, version: int) -> Iterator[dict[str, Any]]:
        """Send ``version`` in one part or more, as many on every rank; a collective.

        Yields after each what the engines must know of it (rank 0; what others yield is
        ignored), and goes on when all of them have loaded it.
        """

    def release(self) -> None:  # noqa: B027  most have nothing to free
        """Free what the send left for the engines, who have it now or never will."""

    def described(self) -> dict[str, Any]:
        """Names, dtypes and shapes in the order of the source, in vLLM's words."""
        metadata = self.source.metadata()
        return {
            "names": [m.name for m in metadata],
            "dtype_names": [str(m.dtype).removeprefix("torch.") for m in metadata],
            "shapes": [list(m.shape) for m in metadata],
        }


WEIGHT_BACKENDS: Registry[WeightBackend] = Registry("weights", "rlvr.weights.backends")


def backend_class(name: str) -> type[WeightBackend]:
    """The backend called ``name``; ConfigError with the nearest name if there is none."""
    return WEIGHT_BACKENDS.find(name, "weights.backend").method


def default_backend(cluster: ClusterConfig) -> str:
    """What ``weights.backend=auto`` stands for on ``cluster``."""
    return next(name for name in _AUTO if backend_class(name).refusal(cluster) is None)
