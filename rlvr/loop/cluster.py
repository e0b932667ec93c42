"""Ray: connect to the cluster, reserve its resources, say where each actor goes."""

import asyncio
import os
import socket
from collections.abc import Sequence
from typing import Any

import ray
from ray.util.placement_group import (
    placement_group,
    placement_group_table,
    remove_placement_group,
)

from rlvr.config import RunConfig
from rlvr.errors import ConfigError, RunError
from rlvr.loop.placement import Options, Placement
from rlvr.loop.resolve import learner_threads, rollout_threads, shares_gpus
from rlvr.place import Place

_RESERVE_TIMEOUT_S = 300.0
_KNOCK_S = 10.0
_POLL_S = 0.1

# Of every worker process: nothing is fetched, nothing is reported, no progress bars of others.
_QUIET = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "PYTHONWARNINGS": "ignore",
}

# Of those that compute on a CPU: a thread that waits leaves its core to whoever works.
_ON_CPU = {"CUDA_VISIBLE_DEVICES": "", "OMP_WAIT_POLICY": "PASSIVE"}


def connect(config: RunConfig) -> None:
    """Join the cluster at ``cluster.address`` or RAY_ADDRESS, or start one in this process."""
    if ray.is_initialized():
        return
    address = config.cluster.address or os.environ.get("RAY_ADDRESS")
    common: Options = {"log_to_driver": config.telemetry.worker_logs, "logging_level": "warning"}
    if address:
        join(address, **common)
    else:
        actors = _ranks(config) + (config.rollout.workers or 1)
        common["num_cpus"] = max(os.cpu_count() or 1, actors + (config.verifier.actors or 1))
        if not _started(common) and not _started(common):
            raise RunError(
                "Ray did not come up on this machine within twice its half a minute: too much else "
                "runs here, or memory is short. Try again when there is room."
            )


def _started(options: Options) -> bool:
    """Whether a Ray of our own has come up in time, which Ray sets."""
    try:
        # Without "local" it would join a cluster that happens to run here, of anybody's.
        ray.init("local", include_dashboard=False, **options)
    except Exception as error:  # of no class of its own
        if "timed out during startup" not in str(error):
            raise
        ray.shutdown()
        return False
    return True


def join(address: str, **options: Any) -> None:
    """Join the cluster there; ConfigError if it does not take us."""
    host, _, port = address.rpartition(":")
    try:
        if port.isdecimal() and "://" not in host:  # Ray itself would knock for ten minutes
            socket.create_connection((host, int(port)), timeout=_KNOCK_S).close()
        ray.init(address=address, **options)
    except (OSError, ray.exceptions.RayError) as error:
        raise ConfigError(
            f"cluster.address: no Ray cluster takes us at {address} ({_cause(error)}). Is its "
            "head up there (`ray start --head`), may this machine reach that port, and do "
            "both have the same RAY_AUTH_TOKEN or ~/.ray/auth_token?"
        ) from error
    except RuntimeError as error:
        if "mismatch" not in str(error):
            raise
        raise ConfigError(
            f"cluster.address={address}: {' '.join(str(error).split())} Set this machine and its "
            "nodes up from the same commit (bash launch/setup.sh)."
        ) from error


async def reserve(config: RunConfig) -> Placement:
    """Reserve what the actors need; ConfigError if there is no room."""
    bundles = resource_bundles(config)
    # On GPUs whole nodes fill up, so that ranks have fast links. CPU nodes share all kinds alike.
    apart = config.cluster.nodes > 1 and config.cluster.gpus == 0
    # Ray chooses the machines for all of them at once.
    group = placement_group(bundles, strategy="SPREAD" if apart else "PACK")
    places: list[Place] = []
    try:
        async with asyncio.timeout(_RESERVE_TIMEOUT_S):
            while (chosen := placement_group_table(group))["state"] != "CREATED":
                await asyncio.sleep(_POLL_S)
            remove_placement_group(group)
            machines = chosen["bundles_to_node_id"]
            places = [Place(bundle, machines[i]) for i, bundle in enumerate(bundles)]
            for place in places:
                while not place.there():
                    await asyncio.sleep(_POLL_S)
    except BaseException as error:
        remove_placement_group(group)
        for place in places:
            place.release()
        if not isinstance(error, TimeoutError):
            raise
        raise ConfigError(
            f"cluster: no room for {bundles} within {_RESERVE_TIMEOUT_S:.0f} s; the cluster has "
            f"{ray.cluster_resources()}, free now {ray.available_resources()}"
        ) from None
    return Placement(
        learners=learner_options(config, places),
        engines=engine_options(config, places),
        verifiers=_actor({"OMP_NUM_THREADS": "1"}),
        places=places,
    )


def _cause(error: BaseException) -> str:
    """The first line of what began it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).splitlines()[0]


def resource_bundles(config: RunConfig) -> list[dict[str, float]]:
    """What to reserve: learner ranks first, then rollout workers.

    A bundle lies on one node. On shared GPUs it is those of an engine and of the learner ranks
    that it shares them with.
    """
    ranks, workers = _ranks(config), config.rollout.workers or 1
    if config.cluster.gpus == 0:
        available = ray.cluster_resources().get("CPU", 1.0) if ray.is_initialized() else 1.0
        share = min(1.0, round(available / (ranks + workers + 1), 2))
        return [{"CPU": share}] * (ranks + workers)
    gpus = float(config.rollout.tensor_parallel)
    if shares_gpus(config):
        return [{"CPU": gpus, "GPU": gpus}] * workers
    return [*[{"CPU": 1.0, "GPU": 1.0}] * ranks, *[{"CPU": 1.0, "GPU": gpus}] * workers]


def learner_options(config: RunConfig, places: Sequence[Place] | None) -> list[Options]:
    gpu = config.cluster.gpus > 0
    ranks_per_bundle = config.rollout.tensor_parallel if shares_gpus(config) else 1
    env = {"OMP_NUM_THREADS": str(learner_threads(config, _cores(config)))}
    if gpu:
        # Sequences of all lengths come: fragments would take the memory that they need.
        own = os.environ.get("PYTORCH_ALLOC_CONF")
        env["PYTORCH_ALLOC_CONF"] = own or "expandable_segments:True"
    else:
        env |= _ON_CPU | {"DS_ACCELERATOR": "cpu"}
    return [
        {
            "num_cpus": 0,
            "num_gpus": float(gpu),
            "scheduling_strategy": places[i // ranks_per_bundle] if places else "DEFAULT",
            **_actor(env),
        }
        for i in range(_ranks(config))
    ]


def engine_options(config: RunConfig, places: Sequence[Place] | None) -> list[Options]:
    """Of each rollout worker. Ray is asked for no GPU that a learner rank has: the worker is told
    when it starts which GPUs those are."""
    shares = shares_gpus(config)
    first = 0 if shares else _ranks(config)
    env = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    if config.cluster.gpus == 0:
        env |= _ON_CPU | {
            "VLLM_CPU_KVCACHE_SPACE": str(config.rollout.cpu_cache_gib),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(rollout_threads(config, _cores(config))),
            "TORCH_COMPILE_DISABLE": "1",
        }
    own = config.cluster.gpus > 0 and not shares
    return [
        {
            "num_cpus": 0,
            "num_gpus": float(config.rollout.tensor_parallel) if own else 0.0,
            "scheduling_strategy": places[first + i] if places else "DEFAULT",
            **_actor(env),
        }
        for i in range(config.rollout.workers or 1)
    ]


def _actor(env: dict[str, str]) -> Options:
    """Of every actor, with its environment.

    Ray's head would keep a record of their last 100,000 calls, at 3 KB each.
    """
    return {"enable_task_events": False, "runtime_env": {"env_vars": _QUIET | env}}


def _ranks(config: RunConfig) -> int:
    """0 where nothing is trained."""
    return 1 if config.learner.ranks is None else config.learner.ranks


def _cores(config: RunConfig) -> int:
    """Of a node that learner ranks run on, as Ray counts them; else of this one."""
    if config.cluster.gpus and ray.is_initialized():
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if cores := [int(r["CPU"]) for r in nodes if "GPU" in r and "CPU" in r]:
            return min(cores)
    return len(os.sched_getaffinity(0))
