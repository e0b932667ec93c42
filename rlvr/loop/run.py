"""Runs, assembled and taken down."""

from collections.abc import Sequence

from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from rlvr.config import RunConfig
from rlvr.data.dataset import Dataset, load_dataset
from rlvr.data.stream import PromptStream
from rlvr.errors import ConfigError
from rlvr.loop.actors import Actors
from rlvr.loop.credit_driver import CreditDriver
from rlvr.loop.evaluation import Evaluation
from rlvr.loop.groups import GroupSource
from rlvr.loop.state import RunState, resume_point
from rlvr.loop.trainer import Trainer
from rlvr.telemetry.run_folder import RunFolder
from rlvr.telemetry.run_log import Telemetry
from rlvr.verify.base import names


class Session:
    """Runs, one after the other: a single one, or those of a sweep.

    Actors wait for the next run, which takes them over if it needs the same ones: an engine
    takes longer to start than many a step.
    """

    def __init__(self) -> None:
        self._actors: Actors | None = None

    async def train(self, config: RunConfig) -> None:
        """Train as configured, from the data to the saved model.

        Everything that can be found wrong without an engine is found before the first starts.
        """
        tokenizer = load_tokenizer(config)
        train_set = load_dataset(config.data.train, config.data, tokenizer)
        held_out = Dataset()
        if config.data.eval:
            held_out = load_dataset(config.data.eval, config.data, tokenizer)
        print(train_set.summary(), flush=True)
        stream = PromptStream(train_set.prompts, config.train.seed, config.data.shuffle)
        checkpoint = resume_point(config)
        if checkpoint is not None:
            stream.restore(checkpoint.state["stream"])
        resuming = config.train.resume == "auto"
        folder = (RunFolder.open if resuming else RunFolder.create)(config.train.output_dir)
        telemetry = Telemetry(config.telemetry, folder)
        state: RunState | None = None
        try:
            verifier_names = names([*train_set.prompts, *held_out.prompts])
            pad = int(tokenizer.pad_token_id or 0)
            actors = await self._take_actors(config, pad, verifier_names)
            stops = stop_token_ids(config, tokenizer)
            groups = GroupSource(config, stream, actors.rollout, actors.verifiers, tokenizer, stops)
            evaluation = Evaluation(config, held_out.prompts, groups, telemetry, stops)
            state = RunState(config, stream, actors.learners, telemetry)
            if checkpoint is not None:
                await state.restore(checkpoint)
            await actors.engines_turn(state.step)
            telemetry.start(config, state.step)
            credit = CreditDriver(config, actors.rollout, tokenizer)
            trainer = Trainer(config, groups, credit, actors, evaluation, state, telemetry)
            await trainer.run()
            telemetry.summary({"steps": state.step, "rows_dropped": train_set.dropped})
        except BaseException:
            if state is not None:
                state.close()
            await self.close()  # after an error or an interrupt nobody knows their state
            raise
        finally:
            telemetry.close()

    async def _take_actors(
        self, config: RunConfig, pad: int, verifier_names: Sequence[str]
    ) -> Actors:
        if self._actors is not None and self._actors.matches(config, pad, verifier_names):
            await self._actors.restart(config)
        else:
            await self.close()
            self._actors = await Actors.start(config, pad, verifier_names)
        return self._actors

    async def close(self) -> None:
        actors, self._actors = self._actors, None
        if actors is not None:
            await actors.close()


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
