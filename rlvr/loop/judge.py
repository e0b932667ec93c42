"""From responses to samples: text, verdict and reward."""

from collections.abc import Sequence
from typing import Any

from rlvr.config import RunConfig
from rlvr.loop.reward import Reward
from rlvr.types import Prompt, Response, Sample
from rlvr.verify.workers.pool import VerifierPool


class Judge:
    """Judges responses of a run.

    Args:
        config: the run's.
        verifiers: that ask the verifiers of the prompts.
        decoder: the tokenizer.
    """

    def __init__(self, config: RunConfig, verifiers: VerifierPool, decoder: Any) -> None:
        self._verifiers = verifiers
        self._decoder = decoder
        self._reward = Reward(config)

    async def samples(
        self, prompts: Sequence[Prompt], responses: Sequence[Response]
    ) -> list[Sample]:
        """Each response to its prompt, in order; of a conversation the last turn is judged."""
        if not responses:
            return []
        texts = self._decoder.batch_decode(
            [r.token_ids[r.last_turn :] for r in responses], skip_special_tokens=True
        )
        verdicts = await self._verifiers.verify(list(zip(prompts, texts, strict=True)))
        return [
            Sample(response, text, self._reward(verdict, text, response))
            for response, text, verdict in zip(responses, texts, verdicts, strict=True)
        ]
