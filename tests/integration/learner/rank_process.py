"""One rank of a learner without Ray, as a script: reads the names of files of cases from stdin,
runs every case of each, and replies with the name of the file that holds what came out.

A case is what a training step is made of, or the name of a file beside this one, whose ``run``
is called, and what that needs.

usage: rank_process.py RANK WORLD PORT
"""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import sys


def main(rank: int, world: int, port: str) -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed goes into the log
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=port,
        RANK=str(rank),
        WORLD_SIZE=str(world),
        LOCAL_RANK="0",
        DS_ACCELERATOR="cpu",
    )
    import deepspeed
    import torch

    importlib.import_module("rlvr.learner.rank")
    torch.set_num_threads(1)
    deepspeed.init_distributed("gloo", verbose=False)
    gc.freeze()  # ZeRO-3 collects garbage whenever it starts, here among a million old objects
    for path in map(str.strip, sys.stdin):
        with open(path, "rb") as f:
            cases = pickle.load(f)
        results = {name: call(rank, world, *case) for name, case in cases.items()}
        torch.save(results, f"{path}.{rank}")
        print(f"{path}.{rank}", file=replies, flush=True)


def call(rank: int, world: int, first, *rest) -> dict:
    if isinstance(first, str):
        return importlib.import_module(first).run(rank, world, *rest)
    return run(rank, world, first, *rest)


def run(
    rank: int, world: int, config, groups, advantages, per_mini_batch, inputs, update=True
) -> dict:
    import torch

    from rlvr.learner.batching import rank_batches
    from rlvr.learner.engine import gathered
    from rlvr.learner.lora import weights_of
    from rlvr.learner.rank import LearnerRank
    from rlvr.weights.source import ShardedWeightSource

    learner = LearnerRank(config, torch.device("cpu"), pad_token_id=0)
    batches = rank_batches(
        groups,
        advantages,
        ranks=world // config.learner.sequence_parallel,
        groups_per_mini_batch=per_mini_batch,
        inputs=inputs,
    )
    for _ in range(config.train.steps if isinstance(config.train.steps, int) else 1):
        learner.load(batches[rank // config.learner.sequence_parallel])
        metrics = {**learner.score(), **learner.assign_credit()[0]}
        coefficients = learner.coefficients.clone()
        if not update:
            break
        metrics |= learner.update()
        moved = stay_on_the_host(learner) if config.learner.offload == "during_rollout" else 0
    found = {
        "response_id": learner.batch.response_id,
        "sequence_id": learner.batch.sequence_id,
        "coefficients": coefficients,
    }
    if not update:
        return found
    source = ShardedWeightSource(weights_of(learner.policy.model), gathered)
    weights = {k: v.clone() for k, v in source}
    with gathered(learner.policy.parameters()):
        named = learner.policy.model.named_parameters()
        trained = {k: p.detach().clone() for k, p in named if p.requires_grad}
    return found | {"weights": weights, "trained": trained, "metrics": metrics, "moved": moved}


def stay_on_the_host(learner) -> int:
    """Bytes of the optimizer that have left the device, before they come back."""
    from rlvr.learner.host_state import HostState

    optimizer = getattr(learner.engine.optimizer, "optimizer", learner.engine.optimizer)
    weights = {p.untyped_storage()._cdata for p in learner.policy.parameters()}
    own = [t for state in optimizer.state.values() for t in state.values()] + list(optimizer.state)
    on_device = {t.untyped_storage()._cdata: t.untyped_storage() for t in own}
    state = HostState(learner.engine)
    before = sum(storage.nbytes() for at, storage in on_device.items() if at not in weights)
    state.leave()
    left = sum(storage.nbytes() for at, storage in on_device.items() if at not in weights)
    assert all(t.isfinite().all() for t in own), "it can be read on the host"
    state.return_()
    return before - left


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
