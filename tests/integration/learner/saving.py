"""A case for ``run_ranks``: train, save, load under this layout, train on."""

from __future__ import annotations


def run(rank: int, world: int, config, groups, advantages, load, save) -> dict:
    """One step after ``load`` (or two at the start of all); the state before and after it."""
    import torch

    from rlvr.errors import ConfigError
    from rlvr.learner.batching import rank_batches
    from rlvr.learner.engine import gathered
    from rlvr.learner.host_state import HostState
    from rlvr.learner.lora import weights_of
    from rlvr.learner.rank import LearnerRank
    from rlvr.learner.sharded_state import ShardedState
    from rlvr.learner.state_files import SharedState, StateFiles, write
    from rlvr.storage import Folder
    from rlvr.weights.source import ShardedWeightSource

    learner = LearnerRank(config, torch.device("cpu"), pad_token_id=0)
    state = ShardedState(learner.engine, learner.policy.model)
    batches = rank_batches(
        groups, advantages, ranks=world // config.learner.sequence_parallel, groups_per_mini_batch=2
    )

    def weights() -> dict:
        source = ShardedWeightSource(weights_of(learner.policy.model), gathered)
        whole = {k: v.clone() for k, v in source}
        adapters = {k: p for k, p in learner.policy.model.named_parameters() if "lora_" in k}
        with gathered(adapters.values()):
            return whole | {k: p.detach().clone() for k, p in adapters.items()}

    def step() -> dict:
        learner.load(batches[rank // config.learner.sequence_parallel])
        learner.score()
        learner.assign_credit()
        learner.update()
        return weights()

    if load is None:
        step()
    else:
        files = StateFiles(Folder(load))
        try:
            state.restore(files)
        except ConfigError as error:
            return {"refusal": str(error)}
        learner.steps = files.shared.optimizer_steps
    before = weights()
    if save is not None:
        Folder(save).create()
        host = HostState(learner.engine)
        if config.learner.offload == "during_rollout":
            host.leave()
        frozen = state.frozen()
        shared = SharedState(state.shapes, learner.steps, state.scalars, {}, frozen)
        copied = state.copied()
        host.return_()
        write(Folder(save), rank, copied, None if rank else shared)
        torch.distributed.barrier()
    return {"before": before, "after": step()}
