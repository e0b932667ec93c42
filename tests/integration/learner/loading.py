"""A case of ``rank_process.py``: load a policy; what it holds, and how much memory that took."""

from __future__ import annotations

import gc
from pathlib import Path

import torch

from rlvr.errors import ConfigError
from rlvr.learner.engine import gathered, start_engine
from rlvr.learner.policy import load_policy, save_policy


def memory(key: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at most since ``forget_peak``."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024


def forget_peak() -> None:
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")


def run(rank: int, world: int, config, folder: str | None = None) -> dict:
    """Save what was loaded to ``folder``, if one is given."""
    forget_peak()
    before = memory("VmRSS")
    try:
        policy = load_policy(config.model, config.learner, 1.0, torch.device("cpu"))
    except ConfigError as error:
        return {"refusal": str(error)}
    peak = memory("VmHWM") - before
    network = policy.model
    shard = sum(p.ds_tensor.nbytes for p in network.parameters() if hasattr(p, "ds_tensor"))
    held = sum(p.nbytes for p in network.parameters()) + shard
    if folder is None:
        return {"peak": peak, "held": held}
    names = [name for name, _ in network.named_parameters()]
    with gathered(network.parameters()):
        weights = {k: p.detach().clone() for k, p in network.named_parameters()}
    if rank == 0:
        save_policy(dict(weights), policy, Path(folder), config.model.path)
    buffers = {k: b.clone() for k, b in network.named_buffers()}
    start_engine(policy, config.learner, config.model).destroy()
    return {"weights": weights, "buffers": buffers, "names": names, "held": held}
