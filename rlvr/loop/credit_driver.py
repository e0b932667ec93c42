"""What the driver lends to credit methods that prepare inputs: final answers, and the engines."""

from collections.abc import Iterable
from functools import cache
from itertools import count, islice
from typing import Any

import numpy as np

from rlvr.algorithm.credit import CREDITS, PreparesInputs, Question
from rlvr.config import RunConfig
from rlvr.errors import RunError
from rlvr.loop.batch import RolloutBatch
from rlvr.rollout.pool import RolloutPool
from rlvr.rollout.request import Request, Sampling
from rlvr.types import CreditInputs, Sample, TokenChoices
from rlvr.verify.answer import NoAnswer, answer_pattern, final_answer

_WAVE = 4096  # questions under way at a time


class CreditDriver:
    """Runs a method's own preparation on the driver (the ``Driver`` protocol).

    It does so after a policy version is published and before the next one is, so the engines
    answer for the version that the learner scores with, in asynchronous training too. A question
    is a request for one token; the vLLM prefix cache serves what it shares with others.
    """

    def __init__(self, config: RunConfig, rollout: RolloutPool, tokenizer: Any) -> None:
        self.pad_token_id = int(tokenizer.pad_token_id or 0)
        self.longest = int(config.rollout.engine["max_model_len"]) - 1
        self._method = CREDITS.build(config.credit, "credit")
        self._rollout = rollout
        self._tokenizer = tokenizer
        self._pattern = answer_pattern(config.verifier)
        self._sampling = Sampling(config.rollout.temperature, 1.0, 0, 1, ())
        self._number = count()
        self._version = 0
        self._piece = cache(lambda i: str(tokenizer.decode([i], skip_special_tokens=True)))

    async def prepare(self, batch: RolloutBatch) -> CreditInputs | None:
        """The method's own inputs for the batch, None if it wants none."""
        if not isinstance(self._method, PreparesInputs):
            return None
        self._version = batch.step
        return await self._method.prepare(batch.groups, self)

    def answer_span(self, sample: Sample) -> tuple[int, int]:
        """[start, end) of the final answer among the response's tokens; (-1, -1): there is none.

        The sampled ids are never re-tokenised: the text is put together from the tokens' own
        pieces, so that a place in the text is a place among the tokens.
        """
        pieces = [self._piece(int(i)) for i in sample.response.token_ids]
        text = "".join(pieces)
        try:
            answer = final_answer(text, self._pattern)
        except NoAnswer:
            return -1, -1
        box = -1 if self._pattern else text.rfind("\\boxed")
        begin = text.find(answer, box) if box >= 0 else text.rfind(answer)
        if begin < 0:
            return -1, -1
        ends = np.cumsum([len(p) for p in pieces])
        first = int(np.searchsorted(ends, begin, side="right"))
        last = int(np.searchsorted(ends, begin + len(answer), side="left"))
        return first, last + 1

    def tokenize(self, text: str) -> list[int]:
        """Token ids of ``text``, without special ones."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

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
