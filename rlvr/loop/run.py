"""Runs, assembled and taken down."""

from dataclasses import dataclass, replace
from typing import Self

from transformers import PreTrainedTokenizerBase

from rlvr.config import RunConfig
from rlvr.data.curriculum import Curriculum
from rlvr.data.dataset import Dataset, load_dataset
from rlvr.data.sources import files, sources
from rlvr.data.stream import PromptStream
from rlvr.errors import ConfigError, LearnerError, PublishError
from rlvr.loop.actors import Actors
from rlvr.loop.audit import Audit
from rlvr.loop.checkpoints import Checkpoints
from rlvr.loop.continuations import Continuations
from rlvr.loop.conversations import check_conversations
from rlvr.loop.credit_driver import CreditDriver
from rlvr.loop.evaluation import Evaluation
from rlvr.loop.groups import GroupSource
from rlvr.loop.state import RunState, resume_point
from rlvr.loop.tokenizer import check_model, load_tokenizer, stop_token_ids
from rlvr.loop.trainer import Trainer
from rlvr.loop.watchdog import Watchdog
from rlvr.remote import summary
from rlvr.telemetry.run_folder import RunFolder
from rlvr.telemetry.run_log import Telemetry
from rlvr.verify.environments.base import tools_of
from rlvr.verify.workers.work import Work


@dataclass(frozen=True)
class _Inputs:
    """What a run reads once, however often its learner starts again."""

    tokenizer: PreTrainedTokenizerBase
    train_set: Dataset
    held_out: Dataset

    @classmethod
    def read(cls, config: RunConfig) -> Self:
        tokenizer = load_tokenizer(config)
        train_set = load_dataset(files(config.data.train), config.data, tokenizer, tools_of)
        held_out = Dataset()
        if config.data.eval:
            held_out = load_dataset(config.data.eval, config.data, tokenizer, tools_of)
        prompts = [*train_set.prompts, *held_out.prompts]
        check_model(config, tokenizer, prompts)
        check_conversations(config, tokenizer, prompts)
        print(train_set.summary(), flush=True)
        return cls(tokenizer, train_set, held_out)


class Session:
    """Runs, one after the other: a single one, or those of a sweep.

    Actors wait for the next run, which takes over engines and ranks if it needs the same ones, and
    verifiers likewise: an engine takes longer to start than many a step.
    """

    def __init__(self) -> None:
        self._actors: Actors | None = None

    async def train(self, config: RunConfig) -> None:
        """Train as configured, from the data to the saved model.

        When a learner rank dies, all of them start again from the run's last checkpoint, as if
        it were resumed, and so they do at a checkpoint when there is room for more of them;
        engines and verifiers stay.
        """
        limit, restarts, again = config.train.max_restarts, 0, False
        own = Checkpoints.of(config)
        if config.train.checkpoint_dir:  # so that whoever reads of it elsewhere finds it
            config = replace(config, train=replace(config.train, checkpoint_dir=own.folder.url))
        inputs = _Inputs.read(config)
        while True:
            try:
                if await self._attempt(config, inputs, again):
                    return
                print("There is room for more learner ranks: they start again.", flush=True)
            except BaseException as error:
                if restarts == limit or not await self._learner_died(error):
                    await self.close()  # after an error or an interrupt nobody knows their state
                    raise
                restarts += 1
                told = f"({restarts} of train.max_restarts={limit})"
                print(f"{summary(error)}. The learner starts again {told}.", flush=True)
            again = True
            if own.steps:
                config = replace(config, train=replace(config.train, resume="auto"))

    async def _learner_died(self, error: BaseException) -> bool:
        """Whether the run has failed because a rank is gone, and not of its own error."""
        if self._actors is None or not isinstance(error, LearnerError | PublishError):
            return False
        return await self._actors.learners.died()

    async def _attempt(self, config: RunConfig, inputs: "_Inputs", again: bool) -> bool:
        """Train to the end, or False at a checkpoint from which more ranks can go on.

        Everything that can be found wrong without an engine is found before the first starts.
        """
        tokenizer, train_set, held_out = inputs.tokenizer, inputs.train_set, inputs.held_out
        stream = prompt_stream(config, train_set)
        checkpoint = resume_point(config)
        if checkpoint is not None:
            stream.restore(checkpoint.state["stream"])
        resuming = again or config.train.resume == "auto"
        folder = (RunFolder.open if resuming else RunFolder.create)(config.train.output_dir)
        if config.train.checkpoint_every:
            Checkpoints.of(config).prepare(new=not resuming)
        telemetry = Telemetry(config.telemetry, folder)
        state: RunState | None = None
        try:
            work = Work.of(config, [*train_set.prompts, *held_out.prompts])
            pad = int(tokenizer.pad_token_id or 0)
            actors = await self._take_actors(config, pad, work)
            stops = stop_token_ids(config, tokenizer)
            groups = GroupSource(config, stream, actors.rollout, actors.verifiers, tokenizer, stops)
            pools = actors.rollout, actors.verifiers
            continuations = Continuations(config, *pools, tokenizer, stops)
            credit = CreditDriver(config, actors.rollout, tokenizer, continuations)
            audit = Audit(config, train_set.prompts, groups, credit, continuations, actors)
            evaluation = Evaluation(config, held_out.prompts, groups, telemetry, stops, audit)
            state = RunState(config, stream, actors.learners, telemetry)
            if checkpoint is not None:
                await state.restore(checkpoint)
            await actors.engines_turn(state.step)
            telemetry.start(config, state.step)
            trainer = Trainer(config, groups, credit, actors, evaluation, state, telemetry)
            with Watchdog(config.telemetry, trainer.watch, folder, actors.by_name):
                ended = await trainer.run()
            if ended:
                telemetry.summary({"steps": state.step, "rows_dropped": train_set.dropped})
            return ended
        finally:
            if state is not None:
                await state.close()
            telemetry.close()

    async def _take_actors(self, config: RunConfig, pad: int, work: Work) -> Actors:
        if self._actors is not None and self._actors.matches(config, pad):
            await self._actors.give_work(work)
            if self._actors.may_grow(config) or await self._actors.learners.died():
                await self._actors.replace_learners(config)
            else:
                await self._actors.restart(config)
        else:
            await self.close()
            self._actors = await Actors.start(config, pad, work)
        return self._actors

    async def close(self) -> None:
        actors, self._actors = self._actors, None
        if actors is not None:
            await actors.close()


def prompt_stream(config: RunConfig, data: Dataset) -> PromptStream:
    """The stream of ``data.train``'s sources; ConfigError for one without a usable row."""
    shares = []
    for name, source in sources(config.data.train).items():
        size = sum(data.sizes[file] for file in source.files)
        if not size:
            raise ConfigError(f"data.train.{name}: has no usable row")
        shares.append((size, source.weight))
    resting = Curriculum() if config.data.curriculum == "pass_rate" else None
    own = config.train.seed, config.data.shuffle
    return PromptStream(data.prompts, *own, sources=shares, curriculum=resting)
