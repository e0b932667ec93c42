"""One run, assembled and taken down."""

from __future__ import annotations

import asyncio

import ray
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from rlvr.algorithm.credit import CREDITS, Needs
from rlvr.config import ConfigError, RunConfig
from rlvr.data.dataset import load_dataset
from rlvr.data.stream import PromptStream
from rlvr.loop.actors import start_actors
from rlvr.loop.answers import AnswerFinder
from rlvr.loop.evaluation import Evaluation
from rlvr.loop.groups import GroupSource
from rlvr.loop.state import RunState, resume_folder
from rlvr.loop.trainer import Trainer
from rlvr.telemetry.run_folder import RunFolder
from rlvr.telemetry.run_log import Telemetry
from rlvr.verify.base import names


async def train(config: RunConfig) -> None:
    """Train as configured, from the data to the saved model.

    Everything that can be found wrong without an engine is found before the first one starts.
    """
    tokenizer = load_tokenizer(config)
    train_set = load_dataset(config.data.train, config.data, tokenizer)
    held_out = load_dataset(config.data.eval, config.data, tokenizer) if config.data.eval else None
    eval_prompts = held_out.prompts if held_out else []
    print(train_set.summary(), flush=True)
    resume_folder(config)  # a missing checkpoint is found before an engine starts
    resuming = config.train.resume == "auto"
    folder = (RunFolder.open if resuming else RunFolder.create)(config.train.output_dir)
    telemetry = Telemetry(config.telemetry, folder)
    try:
        verifier_names = names([*train_set.prompts, *eval_prompts])
        pad = int(tokenizer.pad_token_id or 0)
        async with start_actors(config, pad, verifier_names) as actors:
            stops = stop_token_ids(config, tokenizer)
            stream = PromptStream(train_set.prompts, config.train.seed, config.data.shuffle)
            groups = GroupSource(config, stream, actors.rollout, actors.verifiers, tokenizer, stops)
            evaluation = Evaluation(config, eval_prompts, groups, telemetry, stops)
            state = RunState(config, stream, actors.learners)
            if await state.resume():
                await actors.weights.publish(state.step)
            telemetry.start(config, state.step)
            needs = CREDITS.build(config.credit, "credit").needs
            finder = AnswerFinder(tokenizer) if Needs.ANSWER in needs else None
            trainer = Trainer(config, groups, actors, evaluation, state, telemetry, finder)
            await trainer.run()
        telemetry.summary({**trainer.summary(), "rows_dropped": train_set.dropped})
    finally:
        telemetry.close()


def load_tokenizer(config: RunConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of ``model.tokenizer``, by default the model's own."""
    path = config.model.tokenizer or config.model.path
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=config.model.trust_remote_code)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model.tokenizer: cannot load '{path}': {error}") from error


def stop_token_ids(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids that end a response: the tokenizer's end of text and the model's own list."""
    ids = {tokenizer.eos_token_id}
    try:
        listed = GenerationConfig.from_pretrained(config.model.path).eos_token_id
    except OSError:  # a model folder need not have one
        listed = None
    ids |= set(listed) if isinstance(listed, list) else {listed}
    return sorted(int(i) for i in ids if i is not None)


def run(config: RunConfig) -> None:
    """``train`` from synchronous code; Ray and every process of the run are gone afterwards."""
    try:
        asyncio.run(train(config))
    finally:
        ray.shutdown()
