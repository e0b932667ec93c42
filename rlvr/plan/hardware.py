"""What machines can do, from their makers, and which share of it programs get."""

from dataclasses import dataclass

from rlvr.choice import nearest
from rlvr.errors import ConfigError

GB = 1e9


@dataclass(frozen=True)
class Gpu:
    """One GPU in a node of eight. Sizes in bytes, rates per second, each way.

    ``memory`` is what the data sheet calls GB, counted decimally. The card has 5 to 7 % more,
    which is left to fragmentation.
    """

    name: str
    memory: float
    flops: float  # dense bfloat16
    hbm: float
    nvlink: float
    network: float  # between nodes
    pcie: float
    host_memory: float  # of its node
    training: float = 0.40  # share of FLOP/s in scoring and update (MFU), fused attention
    overlaps: bool = True  # gathers weights while it computes; a processor's core cannot


# H100 SXM: NVIDIA H100 data sheet (989 TFLOP/s without sparsity, 3.35 TB/s, NVLink 900 GB/s both
#   ways); DGX H100 data sheet (2 TB, eight ports of 400 Gb/s).
# H200 SXM: NVIDIA H200 data sheet (141 GB, 4.8 TB/s), DGX H200.
# A100 SXM: NVIDIA A100 80GB data sheet (312 TFLOP/s, 2,039 GB/s, NVLink 600 GB/s); DGX A100
#   (2 TB, eight ports of 200 Gb/s, PCIe 4).
# B200: DGX B200 data sheet, an eighth of it (1,440 GB, 64 TB/s, NVLink 14.4 TB/s; dense bfloat16
#   is a quarter of its 72 PFLOP/s FP8 with sparsity).
GPUS = {
    "h100": Gpu("H100", 80 * GB, 989e12, 3350 * GB, 450 * GB, 50 * GB, 64 * GB, 2000 * GB),
    "h200": Gpu("H200", 141 * GB, 989e12, 4800 * GB, 450 * GB, 50 * GB, 64 * GB, 2000 * GB),
    "a100": Gpu("A100 80GB", 80 * GB, 312e12, 2039 * GB, 300 * GB, 25 * GB, 32 * GB, 2000 * GB),
    "b200": Gpu("B200", 180 * GB, 2250e12, 8000 * GB, 900 * GB, 50 * GB, 64 * GB, 2000 * GB),
}


@dataclass(frozen=True)
class Efficiency:
    """Shares of the above that are reached, and times that no rate explains."""

    decoding: float = 0.50  # of FLOP/s, in matrix products of few rows
    hbm: float = 0.70
    network: float = 0.70  # of NVLink and of the network
    decode_step_s: float = 0.005  # scheduling and kernel launches of one decoding step
    publish_s: float = 3.0  # stopping, loading and starting engines anew
    sleep_s: float = 5.0  # colocated: engines to sleep and awake again, caches emptied
    host_adam: float = 100 * GB  # bytes a second of a node, in Adam on its processors


EFFICIENCY = Efficiency()


def gpu(name: str) -> Gpu:
    """The GPU called ``name``, in any spelling that holds a known one; ConfigError otherwise."""
    asked = name.lower().replace(" ", "")
    for key, found in GPUS.items():
        if key in asked:
            return found
    raise ConfigError(f"--gpu {name}: unknown. {nearest(asked, list(GPUS))}")


def gpu_here() -> Gpu | None:
    """The GPU of this machine, if it has one that is known."""
    import torch

    if not torch.cuda.is_available():
        return None
    try:
        return gpu(torch.cuda.get_device_name(0))
    except ConfigError:
        return None
