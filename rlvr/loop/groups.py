"""Verified groups, batch by batch: the only way from prompts to the learner."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

from rlvr.config import RunConfig
from rlvr.data.stream import PromptStream
from rlvr.errors import RunError
from rlvr.loop.batch import RolloutBatch
from rlvr.loop.reward import Reward
from rlvr.rollout.pool import RolloutPool
from rlvr.rollout.request import Request, Sampling, sample_seed
from rlvr.types import Group, Prompt, Response, Sample
from rlvr.verify.workers.pool import VerifierPool


class Decoder(Protocol):
    """A tokenizer, as far as the loop needs one."""

    def batch_decode(self, sequences: Any, *, skip_special_tokens: bool) -> list[str]:
        """Texts of token ids."""


class GroupSource:
    """Samples and verifies; yields whole groups in the order of their prompts.

    Synchronous and asynchronous training are two settings of ``train.max_staleness``: how many
    batches may be in the making beyond the one that is being waited for. With 0, a batch is
    begun when the previous one has been trained on and published; with k, its oldest token lags
    at most k policy versions behind.
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
        self._rollout = rollout
        self._verifiers = verifiers
        self._decoder = decoder
        self._reward = Reward(config)
        self._sampling = Sampling(
            temperature=config.rollout.temperature,
            top_p=config.rollout.top_p,
            top_k=config.rollout.top_k,
            max_tokens=config.rollout.max_response_tokens,
            stop_token_ids=tuple(stop_token_ids),
        )

    def decode(self, sequences: Sequence[Sequence[int]]) -> list[str]:
        """Texts of token ids, with all that is special in them."""
        return self._decoder.batch_decode(list(sequences), skip_special_tokens=False)

    async def batches(self, start: int) -> AsyncIterator[RolloutBatch]:
        """The batches of steps ``start`` .. ``train.steps - 1``."""
        pending: deque[asyncio.Task[RolloutBatch]] = deque()
        begun = start
        try:
            for step in range(start, self._config.train.steps):
                ahead = step + self._config.train.max_staleness
                while begun <= min(ahead, self._config.train.steps - 1):
                    pending.append(asyncio.create_task(self._batch(begun)))
                    begun += 1
                yield await pending.popleft()
        finally:
            for task in pending:
                task.cancel()

    async def sample(
        self,
        prompts: Sequence[Prompt],
        samples: int,
        sampling: Sampling,
        tag: str,
        seed_step: int,
        drawn: Counter[str] | None = None,
    ) -> list[Group]:
        """``samples`` verified responses for each prompt; used by training and evaluation.

        Verification of a response starts as soon as it has arrived. ``drawn`` counts how often
        a prompt has been drawn in this step: its next samples take the next seeds.
        """
        drawn = Counter() if drawn is None else drawn
        places: dict[str, tuple[int, int]] = {}
        requests = []
        for p, prompt in enumerate(prompts):
            for i in range(samples):
                number = drawn[prompt.id] * samples + i
                seed = sample_seed(self._config.train.seed, prompt.id, seed_step, number)
                requests.append(Request(f"{tag}:{p}:{i}", prompt.token_ids, seed, sampling))
                places[requests[-1].id] = p, i
            drawn[prompt.id] += 1
        cells: list[list[Any]] = [[None] * samples for _ in prompts]

        async def verify(sampled: list[tuple[Request, Response]]) -> None:
            responses = [response for _, response in sampled]
            texts = self._decoder.batch_decode(
                [r.token_ids for r in responses], skip_special_tokens=True
            )
            at = [places[request.id] for request, _ in sampled]
            verdicts = await self._verifiers.verify(
                [(prompts[p], text) for (p, _), text in zip(at, texts, strict=True)]
            )
            for (p, i), response, text, verdict in zip(at, responses, texts, verdicts, strict=True):
                cells[p][i] = Sample(response, text, self._reward(verdict, text, response))

        async with asyncio.TaskGroup() as verifying:
            async for sampled in self._rollout.sample(requests):
                verifying.create_task(verify(sampled))
        return [Group(prompt, own) for prompt, own in zip(prompts, cells, strict=True)]

    async def _batch(self, step: int) -> RolloutBatch:
        wanted = self._config.train.prompts_per_step
        groups: list[Group] = []
        discarded, attempt = 0, 0
        drawn: Counter[str] = Counter()
        while len(groups) < wanted:
            prompts = self._stream.next_batch(wanted)
            state = self._stream.state()
            new = await self.sample(
                prompts,
                self._config.rollout.group_size,
                self._sampling,
                tag=f"step{step}.{attempt}",
                seed_step=step,
                drawn=drawn,
            )
            kept = [g for g in new if g.has_spread or not self._config.train.dynamic_sampling]
            discarded += len(new) - len(kept)
            groups += kept
            attempt += 1
            if attempt == self._config.train.max_sampling_rounds and len(groups) < wanted:
                raise RunError(
                    f"dynamic sampling found {len(groups)} groups with spread among "
                    f"{attempt * wanted} prompts at step {step + 1}, and {wanted} are needed: the "
                    "task is too easy or too hard for this policy. Raise "
                    "train.max_sampling_rounds or rollout.group_size, or set "
                    "train.dynamic_sampling=false"
                )
        return RolloutBatch(step, groups[:wanted], state, discarded)
