"""Puts a credit method's questions to the rollout workers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count, islice

from jaxtyping import Float
from torch import Tensor

from rlvr.algorithm.credit import Inquirer, Question
from rlvr.config import RunConfig
from rlvr.errors import RunError
from rlvr.rollout.pool import RolloutPool
from rlvr.rollout.request import Request, Sampling
from rlvr.types import Answers, Group, TokenChoices

_WAVE = 4096  # questions under way at a time


class Prober:
    """Runs a method's inquiry on the engines that sample.

    It is made after a policy version is published and before the next one is, so the engines
    answer for the version that the learner scores with, in asynchronous training too. A question
    is a request for one token; the vLLM prefix cache serves what it shares with others.
    """

    def __init__(
        self, method: Inquirer, config: RunConfig, rollout: RolloutPool, pad_token_id: int
    ) -> None:
        self._method = method
        self._rollout = rollout
        self._pad_token_id = pad_token_id
        self._longest = int(config.rollout.engine["max_model_len"]) - 1
        self._sampling = Sampling(config.rollout.temperature, 1.0, 0, 1, ())
        self._number = count()

    async def token_scores(
        self, version: int, groups: Sequence[Group], answers: Answers | None
    ) -> Float[Tensor, "N"]:
        """The method's scores of all response tokens, under policy ``version``."""
        inquiry = self._method.inquire(groups, answers, self._pad_token_id, self._longest)
        try:
            questions = next(inquiry)
            while True:
                questions = inquiry.send(await self._ask(questions, version))
        except StopIteration as end:
            return end.value

    async def _ask(self, questions: Iterable[Question], version: int) -> list[TokenChoices]:
        replies: list[TokenChoices] = []
        questions = iter(questions)
        while wave := list(islice(questions, _WAVE)):
            requests = [
                Request(f"probe:{next(self._number)}", q.token_ids, None, self._sampling, q.choices)
                for q in wave
            ]
            told: dict[str, TokenChoices] = {}
            async for sampled in self._rollout.sample(requests):
                for request, response in sampled:
                    if response.policy_version[0] != version or response.choices is None:
                        raise RunError(
                            f"credit asked about policy version {version}, but a rollout worker "
                            f"answered for version {response.policy_version[0]}"
                        )
                    told[request.id] = response.choices
            replies += [told[request.id] for request in requests]
        return replies
