"""Ray: connect to the cluster, reserve its resources, say where each actor goes."""

import asyncio
import os
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rlvr.config import RunConfig
from rlvr.errors import ConfigError
from rlvr.loop.resolve import learner_threads, rollout_threads

Options = dict[str, Any]

_RESERVE_TIMEOUT_S = 300.0

# Of every worker process: nothing is fetched, nothing is reported, no progress bars of others.
_QUIET = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "PYTHONWARNINGS": "ignore",
}


@dataclass(frozen=True)
class Placement:
    """Ray options of every actor, and the reservation behind them."""

    learners: list[Options]
    engines: list[Options]
    verifiers: Options
    group: PlacementGroup

    def release(self) -> None:
        remove_placement_group(self.group)


def connect(config: RunConfig) -> None:
    """Join the cluster at ``cluster.address`` or RAY_ADDRESS, or start one in this process."""
    if ray.is_initialized():
        return
    address = config.cluster.address or os.environ.get("RAY_ADDRESS")
    common: Options = {"log_to_driver": config.telemetry.worker_logs, "logging_level": "warning"}
    if address:
        ray.init(address=address, **common)
    else:
        actors = (config.learner.ranks or 1) + (config.rollout.workers or 1)
        cpus = max(os.cpu_count() or 1, actors + (config.verifier.actors or 1))
        ray.init(num_cpus=cpus, include_dashboard=False, **common)


async def reserve(config: RunConfig) -> Placement:
    """Reserve one bundle per learner rank and per rollout worker; ConfigError if there is no room.

    Colocated, a bundle is one GPU of the learner, and a rollout worker borrows the GPUs of
    ``tensor_parallel`` consecutive bundles.
    """
    bundles = resource_bundles(config)
    group = placement_group(bundles, strategy="PACK")
    try:
        async with asyncio.timeout(_RESERVE_TIMEOUT_S):
            await group.ready()
    except TimeoutError:
        remove_placement_group(group)
        raise ConfigError(
            f"cluster: no room for {bundles} within {_RESERVE_TIMEOUT_S:.0f} s; the cluster has "
            f"{ray.cluster_resources()}, free now {ray.available_resources()}"
        ) from None
    return Placement(
        learners=learner_options(config, group),
        engines=engine_options(config, group),
        verifiers={"num_cpus": 0, "runtime_env": {"env_vars": {**_QUIET, "OMP_NUM_THREADS": "1"}}},
        group=group,
    )


def resource_bundles(config: RunConfig) -> list[dict[str, float]]:
    """What to reserve: learner ranks first, then rollout workers."""
    ranks, workers = config.learner.ranks or 1, config.rollout.workers or 1
    if config.cluster.gpus == 0:
        available = ray.cluster_resources().get("CPU", 1.0) if ray.is_initialized() else 1.0
        share = min(1.0, round(available / (ranks + workers + 1), 2))
        return [{"CPU": share}] * (ranks + workers)
    learner = [{"CPU": 1.0, "GPU": 1.0}] * ranks
    if config.cluster.placement == "colocated":
        return learner
    return [*learner, *[{"CPU": 1.0, "GPU": float(config.rollout.tensor_parallel)}] * workers]


def learner_options(config: RunConfig, group: PlacementGroup | None) -> list[Options]:
    gpu = config.cluster.gpus > 0
    share = 0.5 if config.cluster.placement == "colocated" else 1.0
    env = dict(_QUIET)
    if not gpu:
        env |= {
            "DS_ACCELERATOR": "cpu",
            "OMP_NUM_THREADS": str(learner_threads(config)),
            "CUDA_VISIBLE_DEVICES": "",
        }
    return [
        {
            "num_cpus": 0,
            "num_gpus": share if gpu else 0,
            "scheduling_strategy": _bundle(group, i),
            "runtime_env": {"env_vars": env},
        }
        for i in range(config.learner.ranks or 1)
    ]


def engine_options(config: RunConfig, group: PlacementGroup | None) -> list[Options]:
    ranks, tp = config.learner.ranks or 1, config.rollout.tensor_parallel
    colocated = config.cluster.placement == "colocated"
    env = {**_QUIET, "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    if config.cluster.gpus == 0:
        env |= {
            "VLLM_CPU_KVCACHE_SPACE": str(config.rollout.cpu_cache_gib),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(rollout_threads(config)),
            "TORCH_COMPILE_DISABLE": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        gpus = 0.0
    else:
        gpus = 0.5 if colocated else float(tp)
    return [
        {
            "num_cpus": 0,
            "num_gpus": gpus,
            "scheduling_strategy": _bundle(group, i * tp if colocated else ranks + i),
            "runtime_env": {"env_vars": env},
        }
        for i in range(config.rollout.workers or 1)
    ]


def _bundle(group: PlacementGroup | None, index: int) -> Any:
    if group is None:
        return "DEFAULT"
    return PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)
