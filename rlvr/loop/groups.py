"""Verified groups, batch by batch: the only way from prompts to the learner."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from rlvr.algorithm.overlong import overlong_penalty
from rlvr.config import RunConfig
from rlvr.data.stream import PromptStream
from rlvr.errors import RunError
from rlvr.rollout.pool import RolloutPool
from rlvr.rollout.request import Request, Sampling, sample_seed
from rlvr.types import Group, Prompt, Response, Verdict
from rlvr.verify.workers.pool import VerifierPool


class Decoder(Protocol):
    """A tokenizer, as far as the loop needs one."""

    def batch_decode(self, sequences: Any, *, skip_special_tokens: bool) -> list[str]:
        """Texts of token ids."""


@dataclass(frozen=True)
class RolloutBatch:
    """What one training step learns from, and what it takes to go on from there."""

    step: int
    groups: list[Group]
    texts: list[list[str]]  # decoded responses, per group
    stream_state: dict[str, Any]  # of the prompt stream, after this batch was drawn
    discarded: int = 0  # groups without spread that dynamic sampling threw away


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
    ) -> tuple[list[Group], list[list[str]]]:
        """``samples`` verified responses for each prompt; used by training and evaluation.

        Verification of a response starts as soon as it has arrived. ``drawn`` counts how often
        a prompt has been drawn in this step: its next samples take the next seeds.
        """
        drawn = Counter() if drawn is None else drawn
        places = {f"{tag}:{p}:{i}": (p, i) for p in range(len(prompts)) for i in range(samples)}
        first = []
        for prompt in prompts:
            first.append(drawn[prompt.id] * samples)
            drawn[prompt.id] += 1
        seed = self._config.train.seed
        requests = [
            Request(
                key,
                prompts[p].token_ids,
                sample_seed(seed, prompts[p].id, seed_step, first[p] + i),
                sampling,
            )
            for key, (p, i) in places.items()
        ]
        responses: list[list[Response | None]] = [[None] * samples for _ in prompts]
        verdicts: list[list[Verdict | None]] = [[None] * samples for _ in prompts]
        texts = [[""] * samples for _ in prompts]

        async def verify(sampled: list[tuple[Request, Response]]) -> None:
            decoded = self._decoder.batch_decode(
                [r.token_ids for _, r in sampled], skip_special_tokens=True
            )
            cells = [places[request.id] for request, _ in sampled]
            items = [(prompts[p], text) for (p, _), text in zip(cells, decoded, strict=True)]
            given = await self._verifiers.verify(items)
            for (p, i), (_, response), text, verdict in zip(
                cells, sampled, decoded, given, strict=True
            ):
                responses[p][i], texts[p][i] = response, text
                verdicts[p][i] = self._with_overlong_penalty(verdict, response)

        async with asyncio.TaskGroup() as verifying:
            async for sampled in self._rollout.sample(requests):
                verifying.create_task(verify(sampled))
        groups = [
            Group(prompt, [r for r in rs if r is not None], [v for v in vs if v is not None])
            for prompt, rs, vs in zip(prompts, responses, verdicts, strict=True)
        ]
        return groups, texts

    async def _batch(self, step: int) -> RolloutBatch:
        wanted = self._config.train.prompts_per_step
        groups: list[Group] = []
        texts: list[list[str]] = []
        discarded, attempt = 0, 0
        drawn: Counter[str] = Counter()
        while len(groups) < wanted:
            prompts = self._stream.next_batch(wanted)
            state = self._stream.state()
            new, new_texts = await self.sample(
                prompts,
                self._config.rollout.group_size,
                self._sampling,
                tag=f"step{step}.{attempt}",
                seed_step=step,
                drawn=drawn,
            )
            keep = [
                i
                for i, g in enumerate(new)
                if g.has_spread or not self._config.train.dynamic_sampling
            ]
            discarded += len(new) - len(keep)
            groups += [new[i] for i in keep]
            texts += [new_texts[i] for i in keep]
            attempt += 1
            if attempt == self._config.train.max_sampling_rounds and len(groups) < wanted:
                raise RunError(
                    f"dynamic sampling found {len(groups)} groups with spread among "
                    f"{attempt * wanted} prompts at step {step + 1}, and {wanted} are needed: the "
                    "task is too easy or too hard for this policy. Raise "
                    "train.max_sampling_rounds or rollout.group_size, or set "
                    "train.dynamic_sampling=false"
                )
        return RolloutBatch(step, groups[:wanted], texts[:wanted], state, discarded)

    def _with_overlong_penalty(self, verdict: Verdict, response: Response) -> Verdict:
        train = self._config.train
        if not train.overlong_buffer:
            return verdict
        penalty = float(
            overlong_penalty(
                torch.tensor([float(len(response.token_ids))]),
                self._config.rollout.max_response_tokens,
                train.overlong_buffer,
                train.overlong_factor,
            )[0]
        )
        parts = {**verdict.components, "overlong": penalty}
        return replace(verdict, reward=verdict.reward + penalty, components=parts)
