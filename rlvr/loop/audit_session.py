"""An audit by itself: the actors of a run, one batch of responses, and no update."""

from rlvr.config import RunConfig
from rlvr.data.dataset import load_dataset
from rlvr.data.sources import files
from rlvr.evaluation.agreement import agreements
from rlvr.evaluation.audit_folder import AuditFolder
from rlvr.loop.actors import Actors
from rlvr.loop.audit import Audit
from rlvr.loop.checkpoint import Checkpoint
from rlvr.loop.continuations import Continuations
from rlvr.loop.conversations import check_conversations
from rlvr.loop.credit_driver import CreditDriver
from rlvr.loop.groups import GroupSource
from rlvr.loop.run import prompt_stream
from rlvr.loop.tokenizer import check_model, load_tokenizer, stop_token_ids
from rlvr.verify.environments.base import tools_of
from rlvr.verify.workers.work import Work


async def audit(
    config: RunConfig, checkpoint: Checkpoint | None, folder: AuditFolder, title: str
) -> str:
    """Audit ``model.path``, or what a checkpoint has of it; returns the result's table."""
    tokenizer = load_tokenizer(config)
    data = load_dataset(files(config.data.train), config.data, tokenizer, tools_of)
    check_model(config, tokenizer, data.prompts)
    check_conversations(config, tokenizer, data.prompts, continued=True)
    stops = stop_token_ids(config, tokenizer)
    version = 0 if checkpoint is None else checkpoint.step
    budget = config.audit.continuations
    actors = await Actors.start(
        config, int(tokenizer.pad_token_id or 0), Work.of(config, data.prompts)
    )
    try:
        if checkpoint is not None:
            await actors.learners.load_checkpoint(str(checkpoint.learner))
        await actors.engines_turn(version)
        pools = actors.rollout, actors.verifiers
        stream = prompt_stream(config, data)
        groups = GroupSource(config, stream, *pools, tokenizer, stops)
        continuations = Continuations(config, *pools, tokenizer, stops)
        credit = CreditDriver(config, actors.rollout, tokenizer, continuations)
        own = Audit(config, data.prompts, groups, credit, continuations, actors)
        batch = folder.batch({prompt.id: prompt for prompt in data.prompts})
        if batch is None:
            batch = await own.batch(version)
            folder.keep_batch(batch)
        audited = own.planned(batch, budget)
        values = await own.values(batch, audited, version, folder.values(), folder.keep_values)
    finally:
        await actors.close()
    effects = batch.effects(audited, values)
    return folder.finish(title, batch, effects, agreements(effects))
