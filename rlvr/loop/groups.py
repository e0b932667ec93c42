"""Verified groups, batch by batch: the only way from prompts to the learner."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Protocol

from rlvr.config import RunConfig
from rlvr.data.stream import Draw, PromptStream
from rlvr.loop.batch import RolloutBatch
from rlvr.loop.conversations import Conversations
from rlvr.loop.judge import Judge
from rlvr.loop.line import Line, Place
from rlvr.rollout.pool import RolloutPool
from rlvr.rollout.request import Request, Sampling, sample_seed
from rlvr.rollout.routing import Sampled
from rlvr.types import Group, Prompt
from rlvr.verify.workers.pool import VerifierPool


class Decoder(Protocol):
    """A tokenizer, as far as the loop needs one."""

    def batch_decode(self, sequences: Any, *, skip_special_tokens: bool) -> list[str]:
        """Texts of token ids."""


class GroupSource:
    """Samples and verifies; yields whole groups, batch by batch.

    Synchronous and asynchronous training are two settings of ``train.max_staleness``: how many
    policy versions the oldest token of a batch may lag behind. With 0, groups begin when the
    previous batch has been trained on and published; with k, new ones begin as the engines have
    places for them, as far as the ``Line`` allows.
    """

    def __init__(
        self,
        config: RunConfig,
        stream: PromptStream,
        rollout: RolloutPool,
        verifiers: VerifierPool,
        decoder: Decoder,
        stop_token_ids: Sequence[int],
    ) -> None:
        self._config = config
        self._stream = stream
        self._decoder = decoder
        self._judge = Judge(config, verifiers, decoder)
        self._conversations = Conversations(config, rollout, verifiers, decoder)
        self.sampling = Sampling.of(config.rollout, stop_token_ids)
        self._calls = itertools.count()  # of ``_sample``, so that the ids of requests are unique
        self._line: Line | None = None
        self._waves: set[asyncio.Task[None]] = set()
        self._free = (config.rollout.workers or 1) * config.rollout.max_running  # engines' places
        self._failure: Exception | None = None
        self._news = asyncio.Event()

    def curriculum(self) -> dict[str, float]:
        """How many prompts taught nothing the last time, and rest now and then; empty if off."""
        curriculum = self._stream.curriculum
        return {} if curriculum is None else {"groups/prompts_resting": curriculum.known}

    def decode(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """Texts of token ids, with all that is special in them."""
        return self._decoder.batch_decode(list(sequences), skip_special_tokens=False)

    async def batches(self, start: int) -> AsyncGenerator[RolloutBatch, None]:
        """The batches of steps ``start`` .. ``train.steps - 1``."""
        self._line = line = Line(self._config.train, self._stream, start)
        try:
            for step in range(start, self._config.train.steps):
                line.version = step
                self._begin()
                while (batch := line.take()) is None:
                    await self._news.wait()
                    self._news.clear()
                    if self._failure is not None:
                        raise self._failure
                if self._config.train.max_staleness == 0:
                    await self._cancel()  # engines rest while the learner is at work
                yield batch
        finally:
            self._line = None
            await self._cancel()

    async def sample(
        self, prompts: Sequence[Prompt], samples: int, sampling: Sampling, seed_step: int
    ) -> list[Group]:
        """``samples`` verified responses for each prompt, apart from training."""
        groups: dict[int, Group] = {}
        await self.each(prompts, samples, sampling, seed_step, groups.__setitem__)
        return [groups[p] for p in range(len(prompts))]

    async def each(
        self,
        prompts: Sequence[Prompt],
        samples: int,
        sampling: Sampling,
        seed_step: int,
        finish: Callable[[int, Group], None],
    ) -> None:
        """As ``sample``, but ``finish`` is called with each group and its prompt's place."""
        self._free -= len(prompts) * samples
        turns = [(seed_step, 0)] * len(prompts)
        await self._sample(prompts, turns, samples, sampling, finish)

    def turn(self, draw: Draw) -> tuple[int, int]:
        """The step that the draw's seeds derive from, and how often its prompt came before then."""
        size = self._config.train.prompts_per_step
        step = draw.number // size
        return step, self._stream.repeats(draw, since=step * size)

    def _begin(self) -> None:
        """Begin what may begin now: a wave of groups."""
        if self._line is None:
            return
        count = self._line.room
        if self._config.train.max_staleness:  # else all at once, so that a run can be repeated
            count = min(count, -(-self._free // self._config.rollout.group_size))
        if count > 0:
            self._free -= count * self._config.rollout.group_size
            wave = asyncio.create_task(self._wave(self._line, self._line.begin(count)))
            self._waves.add(wave)
            wave.add_done_callback(self._waves.discard)

    async def _wave(self, line: Line, places: Sequence[Place]) -> None:
        turns = [self.turn(place.draw) for place in places]

        def finish(number: int, group: Group) -> None:
            line.finish(places[number], group)
            self._begin()
            self._news.set()

        prompts = [place.draw.prompt for place in places]
        size = self._config.rollout.group_size
        try:
            await self._sample(prompts, turns, size, self.sampling, finish)
        except Exception as error:
            self._failure = error
            self._news.set()

    async def _cancel(self) -> None:
        for wave in self._waves:
            wave.cancel()
        await asyncio.gather(*self._waves, return_exceptions=True)

    async def _sample(
        self,
        prompts: Sequence[Prompt],
        turns: Sequence[tuple[int, int]],
        samples: int,
        sampling: Sampling,
        finish: Callable[[int, Group], None],
    ) -> None:
        """Call ``finish`` with the place of a prompt and its group as soon as that is verified.

        ``turns`` say of each prompt the step that seeds derive from, and how often it was drawn
        for that step before. Verification of a response starts as soon as it has arrived. The
        engines' places, which the caller has taken, are given back one by one.
        """
        call = next(self._calls)
        where: dict[str, tuple[int, int]] = {}
        asked = []
        for p, (prompt, (step, repeat)) in enumerate(zip(prompts, turns, strict=True)):
            for i in range(samples):
                number = repeat * samples + i
                seed = sample_seed(self._config.train.seed, prompt.id, step, number)
                request = Request(f"{call}:{p}:{i}", prompt.token_ids, seed, sampling)
                where[request.id] = p, i
                asked.append((request, prompt))
        cells: list[list[Any]] = [[None] * samples for _ in prompts]
        missing = [samples] * len(prompts)

        async def verify(sampled: Sampled) -> None:
            responses = [response for _, response in sampled]
            at = [where[request.id] for request, _ in sampled]
            judged = await self._judge.samples([prompts[p] for p, _ in at], responses)
            for (p, i), sample in zip(at, judged, strict=True):
                cells[p][i] = sample
                missing[p] -= 1
                if not missing[p]:
                    finish(p, Group(prompts[p], cells[p]))

        running = len(asked)
        try:
            async with asyncio.TaskGroup() as verifying:

                def arrived(sampled: Sampled) -> None:
                    nonlocal running
                    verifying.create_task(verify(sampled))
                    running -= len(sampled)
                    self._free += len(sampled)
                    self._begin()

                await self._conversations.each(asked, arrived)
        except ExceptionGroup as failures:  # of the task group: what failed speaks for itself
            raise (first := failures.exceptions[0]) from first.__cause__
        finally:
            self._free += running
