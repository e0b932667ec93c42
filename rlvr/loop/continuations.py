"""What becomes of the beginnings of responses: sampled to their end, verified, again and again."""

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np

from rlvr.algorithm.credit import Prefix
from rlvr.config import RunConfig
from rlvr.errors import RunError
from rlvr.loop.judge import Judge
from rlvr.rollout.pool import RolloutPool
from rlvr.rollout.request import Request, Sampling, sample_seed
from rlvr.types import Response
from rlvr.verify.workers.pool import VerifierPool

_At = tuple[int, int | slice]  # a prefix, and which of its samples
_Answer = tuple[str, str, str]  # what a reward depends on: prompt, ids, and how they ended


class Continuations:
    """Rewards of responses that continue given beginnings, as the policy samples and is judged.

    All that the engines, the verifiers and the reward do to a response of the run is done to
    the beginning with its continuation. What is whole already (it ends with a stop token, or has
    as many tokens as a response may have) is verified, and nothing is sampled. Where several come
    to the same response, as those of a policy that is sure do, it is verified once.
    """

    def __init__(
        self,
        config: RunConfig,
        rollout: RolloutPool,
        verifiers: VerifierPool,
        decoder: Any,
        stop_token_ids: Sequence[int],
    ) -> None:
        self._seed = config.train.seed
        self._rollout = rollout
        self._judge = Judge(config, verifiers, decoder)
        self._sampling = Sampling.of(config.rollout, stop_token_ids)
        self._calls = count()

    async def each(
        self,
        prefixes: Sequence[Prefix],
        samples: int,
        version: int,
        finish: Callable[[int, np.ndarray], None],
    ) -> None:
        """Call ``finish`` with the place of a prefix and its rewards, float64 [samples].

        The seeds derive from the run's, the prompt's id, the prefix's ids, ``version`` and the
        sample's number: every prefix has draws of its own, the same ones each time. RunError if
        an engine answers for another version of the policy.
        """
        call = next(self._calls)
        rewards = [np.full(samples, np.nan) for _ in prefixes]
        where: dict[str, _At] = {}
        requests: list[Request] = []
        whole: list[_At] = []
        judged: dict[_Answer, asyncio.Future[float]] = {}
        for p, prefix in enumerate(prefixes):
            left = self._sampling.max_tokens - len(prefix.token_ids)
            if left <= 0 or self._stopped(prefix):
                whole.append((p, slice(None)))
                continue
            sampling = replace(self._sampling, max_tokens=left)
            ids = [*prefix.prompt.token_ids, *prefix.token_ids]
            name = f"{prefix.prompt.id}\x1f{_digest(prefix.token_ids)}"
            for i in range(samples):
                seed = sample_seed(self._seed, name, version, i)
                requests.append(Request(f"continue:{call}:{p}:{i}", ids, seed, sampling))
                where[requests[-1].id] = p, i

        async def judge(places: Sequence[_At], ends: Sequence[Response]) -> None:
            begun = [prefixes[p] for p, _ in places]
            responses = list(map(_joined, begun, ends))
            answers = [
                (prefix.prompt.id, _digest(response.token_ids), response.finish_reason)
                for prefix, response in zip(begun, responses, strict=True)
            ]
            new = {answer: at for at, answer in enumerate(answers) if answer not in judged}
            judged.update((answer, asyncio.Future()) for answer in new)
            samples = await self._judge.samples(
                [begun[at].prompt for at in new.values()], [responses[at] for at in new.values()]
            )
            for answer, sample in zip(new, samples, strict=True):
                judged[answer].set_result(sample.verdict.reward)
            for (p, i), answer in zip(places, answers, strict=True):
                rewards[p][i] = await judged[answer]
                if not np.isnan(rewards[p]).any():
                    finish(p, rewards[p])

        try:
            async with asyncio.TaskGroup() as judging:
                if whole:
                    ends = [_nothing_after(self._stopped(prefixes[p])) for p, _ in whole]
                    judging.create_task(judge(whole, ends))
                async for sampled in self._rollout.sample(requests):
                    for _, response in sampled:
                        if set(response.policy_version.tolist()) - {version}:
                            raise RunError(
                                f"continuations were asked of policy version {version}, but a "
                                f"rollout worker answered for {response.policy_version[0]}"
                            )
                    places = [where[request.id] for request, _ in sampled]
                    judging.create_task(judge(places, [response for _, response in sampled]))
        except ExceptionGroup as failures:  # of the task group: what failed speaks for itself
            raise (first := failures.exceptions[0]) from first.__cause__

    async def rewards(
        self, prefixes: Sequence[Prefix], samples: int, version: int
    ) -> list[np.ndarray]:
        """Of each prefix, in order, float64 [samples]."""
        found: dict[int, np.ndarray] = {}
        await self.each(prefixes, samples, version, found.__setitem__)
        return [found[p] for p in range(len(prefixes))]

    def _stopped(self, prefix: Prefix) -> bool:
        ids = prefix.token_ids
        return bool(len(ids)) and ids[-1] in self._sampling.stop_token_ids


def _joined(prefix: Prefix, end: Response) -> Response:
    """The whole response, as far as its reward reads it: ids, and how it ended."""
    ids = np.concatenate([np.asarray(prefix.token_ids, np.int32), end.token_ids])
    nothing = np.zeros(len(ids), np.int32)
    return Response(ids, nothing.astype(np.float32), nothing, end.finish_reason)


def _nothing_after(stop: bool) -> Response:
    nothing = np.zeros(0, np.int32)
    return Response(nothing, nothing.astype(np.float32), nothing, "stop" if stop else "length")


def _digest(ids: Sequence[int] | np.ndarray) -> str:
    return hashlib.blake2b(np.asarray(ids, np.int32).tobytes(), digest_size=16).hexdigest()
