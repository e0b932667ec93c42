"""What the driver lends to credit methods that prepare inputs: final answers, and the engines."""

from collections.abc import Iterable, Sequence
from itertools import count, islice
from typing import Any

import numpy as np

from rlvr.algorithm.credit import Prefix, Question
from rlvr.algorithm.credit.shadow import credit_methods, prepared
from rlvr.config import RunConfig
from rlvr.errors import RunError
from rlvr.loop.answers import AnswerFinder
from rlvr.loop.batch import RolloutBatch
from rlvr.loop.continuations import Continuations
from rlvr.rollout.pool import RolloutPool
from rlvr.rollout.request import Request, Sampling
from rlvr.types import CreditInputs, TokenChoices

_WAVE = 4096  # questions under way at a time


class CreditDriver(AnswerFinder):
    """Runs the methods' own preparation on the driver (the ``Driver`` protocol).

    It does so after a policy version is published and before the next one is, so the engines
    answer for the version that the learner scores with, in asynchronous training too. A question
    is a request for one token; the vLLM prefix cache serves what it shares with others.
    """

    def __init__(
        self,
        config: RunConfig,
        rollout: RolloutPool,
        tokenizer: Any,
        continuations: Continuations,
    ) -> None:
        super().__init__(config.verifier, tokenizer)
        self.longest = int(config.rollout.engine["max_model_len"]) - 1
        self.methods = credit_methods(config)
        self._rollout = rollout
        self._continuations = continuations
        self._sampling = Sampling(config.rollout.temperature, 1.0, 0, 1, ())
        self._number = count()
        self._version = 0

    async def prepare(self, batch: RolloutBatch) -> CreditInputs | None:
        """The inputs of the method in use and its shadows, None if none of them wants any."""
        self._version = batch.step
        return await prepared(self.methods, batch.groups, self)

    async def values(self, prefixes: Sequence[Prefix], samples: int) -> list[np.ndarray]:
        return await self._continuations.rewards(prefixes, samples, self._version)

    async def ask(self, questions: Iterable[Question]) -> list[TokenChoices]:
        replies: list[TokenChoices] = []
        questions = iter(questions)
        while wave := list(islice(questions, _WAVE)):
            ids = [f"credit:{next(self._number)}" for _ in wave]
            requests = [
                Request(i, q.token_ids, None, self._sampling, q.choices)
                for i, q in zip(ids, wave, strict=True)
            ]
            told: dict[str, TokenChoices] = {}
            async for sampled in self._rollout.sample(requests):
                for request, response in sampled:
                    if response.policy_version[0] != self._version or response.choices is None:
                        raise RunError(
                            f"credit asked about policy version {self._version}, but a rollout "
                            f"worker answered for version {response.policy_version[0]}"
                        )
                    told[request.id] = response.choices
            replies += [told[i] for i in ids]
        return replies
