"""What a configuration leaves to its cluster: ranks, workers, threads, the weight backend."""

from dataclasses import replace

from rlvr.config import Publish, RunConfig
from rlvr.weights.base import default_backend


def resolved(config: RunConfig) -> RunConfig:
    """Fill in what the cluster decides: ranks, workers, weight backend, threads."""
    cluster, tp = config.cluster, config.rollout.tensor_parallel
    colocated = cluster.placement == "colocated"
    ranks, workers = config.learner.ranks, config.rollout.workers
    if cluster.gpus == 0:
        ranks = cluster.nodes if ranks is None else ranks
        workers = workers or cluster.nodes
    elif colocated:
        ranks = ranks or cluster.gpus
        workers = workers or ranks // tp
    elif ranks is None and workers is None:
        workers = max(1, cluster.gpus // 2 // tp)
        ranks = cluster.gpus - workers * tp
    elif ranks is None:
        ranks = cluster.gpus - (workers or 0) * tp
    elif workers is None:
        workers = (cluster.gpus - ranks) // tp
    backend = config.weights.backend
    if backend == "auto":
        adapters = config.learner.lora.publish == Publish.adapter
        backend = "adapter" if adapters else default_backend(cluster)
    engine = {"max_model_len": longest_sequence(config), **config.rollout.engine}
    return replace(
        config,
        learner=replace(config.learner, ranks=ranks),
        rollout=replace(config.rollout, workers=workers, engine=engine),
        verifier=replace(config.verifier, actors=config.verifier.actors or cluster.nodes),
        weights=replace(config.weights, backend=backend),
    )


def shares_gpus(config: RunConfig) -> bool:
    """Whether engines and learner ranks have the same GPUs."""
    return config.cluster.gpus > 0 and config.cluster.placement == "colocated"


def longest_sequence(config: RunConfig) -> int:
    """Tokens of the longest prompt and response that the run allows."""
    response = max(config.rollout.max_response_tokens, config.evaluation.max_response_tokens or 0)
    return config.data.max_prompt_tokens + response


def learner_threads(config: RunConfig, cores: int) -> int:
    """torch threads of a learner rank: the cores of its node shared among the ranks there."""
    cluster, ranks = config.cluster, config.learner.ranks or 1
    here = min(ranks, cluster.gpus_per_node) if cluster.gpus else -(-ranks // cluster.nodes)
    return cluster.torch_threads or max(1, cores // here)


def rollout_threads(config: RunConfig, cores: int) -> int:
    """torch threads of an engine's process on a CPU.

    In synchronous training all cores are shared among them; if the learner works at the same
    time, one share is left out.
    """
    processes = (config.rollout.workers or 1) * config.rollout.tensor_parallel
    shares = -(-processes // config.cluster.nodes) + int(config.train.max_staleness > 0)
    return config.cluster.torch_threads or max(1, cores // shares)
