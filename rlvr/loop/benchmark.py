"""A model on held-out questions: engines and verifiers, and no learner."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from ray.actor import ActorHandle

from rlvr.config import RunConfig
from rlvr.data.dataset import load_dataset
from rlvr.data.stream import PromptStream
from rlvr.evaluation.folder import EvaluationFolder
from rlvr.loop.cluster import connect, reserve
from rlvr.loop.conversations import check_conversations
from rlvr.loop.evaluation import SEED_STEP, measures
from rlvr.loop.groups import GroupSource
from rlvr.loop.tokenizer import check_model, load_tokenizer, stop_token_ids
from rlvr.rollout.pool import RolloutPool
from rlvr.telemetry.progress import phase
from rlvr.types import Group
from rlvr.verify.environments.base import tools_of
from rlvr.verify.workers.pool import VerifierPool
from rlvr.verify.workers.work import Work

_PART_S = 20.0  # responses are kept, and progress told, so often


async def benchmark(config: RunConfig, folder: EvaluationFolder, step: int) -> None:
    """Ask ``model.path`` all of ``data.eval`` that ``folder`` lacks, as ``evaluation`` says.

    ``step`` is the one after which the model was saved, for the record.
    """
    tokenizer = load_tokenizer(config)
    prompts = load_dataset(config.data.eval, config.data, tokenizer, tools_of).prompts
    prompts = prompts[: config.evaluation.limit]
    check_model(config, tokenizer, prompts)
    check_conversations(config, tokenizer, prompts)
    done = {name: set(answers.questions) for name, answers in folder.measures().items()}
    stops = stop_token_ids(config, tokenizer)
    wanted = [
        (measure, [p for p in prompts if p.id not in done.get(measure.name, ())])
        for measure in measures(config, stops)
    ]
    if not any(missing for _, missing in wanted):
        return
    with phase("starting Ray"):
        connect(config)
    placement = await reserve(config)
    rollout = RolloutPool(config, placement.engines, _introduce)
    verifiers = VerifierPool(Work.of(config, prompts), placement.verifiers)
    try:
        with phase(f"starting {config.rollout.workers} vLLM workers and the verifiers"):
            await asyncio.gather(rollout.start(), verifiers.start())
        stream = PromptStream(prompts, config.train.seed, shuffle=False)
        groups = GroupSource(config, stream, rollout, verifiers, tokenizer, stops)
        for measure, missing in wanted:
            kept = _Kept(folder, measure.name, step, len(prompts), len(prompts) - len(missing))
            await groups.each(missing, measure.samples, measure.sampling, SEED_STEP, kept.finish)
            kept.write()
    finally:
        await asyncio.gather(rollout.close(), verifiers.close(), return_exceptions=True)
        placement.release()


async def _introduce(name: str, actor: ActorHandle, start: Callable[[], Awaitable[None]]) -> None:
    await start()  # it loads the weights itself: they never change


class _Kept:
    """Groups as they finish, written to the folder every now and then."""

    def __init__(
        self, folder: EvaluationFolder, measure: str, step: int, total: int, done: int
    ) -> None:
        self._folder, self._measure, self._step = folder, measure, step
        self._total, self._done = total, done
        self._waiting: list[Group] = []
        self._last = time.monotonic()

    def finish(self, number: int, group: Group) -> None:
        self._waiting.append(group)
        if time.monotonic() - self._last > _PART_S:
            self.write()

    def write(self) -> None:
        if self._waiting:
            self._folder.add(self._measure, self._waiting, self._step)
        self._done += len(self._waiting)
        self._waiting, self._last = [], time.monotonic()
        print(f"{self._measure}: {self._done} of {self._total} questions", flush=True)
