"""Responses of several turns: sampled, replied to by an environment, and sampled on.

Each conversation goes its own way: while an environment works on a turn of one, the engine decodes
others, and the next turn goes back to the engine that has the tokens before it cached.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from rlvr.algorithm.credit.shadow import credit_methods
from rlvr.algorithm.credit.steps import StepAdvantages
from rlvr.config import RunConfig
from rlvr.data.observation import ObservationTemplate, observation_template
from rlvr.errors import ConfigError
from rlvr.rollout.pool import RolloutPool
from rlvr.rollout.request import Request, turn_seed
from rlvr.rollout.routing import Asking, Sampled
from rlvr.types import Prompt, Reply, Response, Turn
from rlvr.verify.environments.base import environment_module
from rlvr.verify.workers.pool import VerifierPool


@dataclass
class _Conversation:
    """A response under way."""

    prompt: Prompt
    request: Request  # as it was asked for
    parts: list[Response] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    state: Any = None  # the environment's; None before the first turn

    @property
    def length(self) -> int:
        """Tokens after the prompt."""
        sampled = sum(len(part.token_ids) for part in self.parts)
        return sampled + sum(len(turn.observation) for turn in self.turns)

    def close_turn(self, reply: Reply | None, observed: Sequence[int] = ()) -> None:
        end = sum(len(part.token_ids) for part in self.parts)
        said = () if reply is None else (reply.observation or "", reply.reward, bool(reply.failure))
        self.turns.append(Turn(end, np.array(observed, np.int32), *said))

    def response(self, finish_reason: str) -> Response:
        parts = self.parts
        return Response(
            np.concatenate([part.token_ids for part in parts]),
            np.concatenate([part.logp_rollout for part in parts]),
            np.concatenate([part.policy_version for part in parts]),
            finish_reason,
            parts[0].choices,
            tuple(self.turns),
        )


class Conversations:
    """``RolloutPool.sample``, with the environments' replies between turns.

    Args:
        config: the run's.
        rollout: samples the turns.
        verifiers: whose processes have the environments.
        decoder: the tokenizer.
    """

    def __init__(
        self,
        config: RunConfig,
        rollout: RolloutPool,
        verifiers: VerifierPool,
        decoder: Any,
    ) -> None:
        self._config = config
        self._rollout = rollout
        self._verifiers = verifiers
        self._decoder = decoder

    @cached_property
    def _template(self) -> ObservationTemplate:
        return observation_template(self._config.data, self._config.environment, self._decoder)

    async def each(
        self, asked: Sequence[tuple[Request, Prompt]], finish: Callable[[Sampled], None]
    ) -> None:
        """Call ``finish`` with requests and their whole responses, as these come, some at a time.

        ``max_tokens`` of a request bounds all that follows the prompt, observations included. The
        seed of a turn after the first derives from the request's.
        """
        if not any(prompt.environment for _, prompt in asked):
            async for sampled in self._rollout.sample([request for request, _ in asked]):
                finish(sampled)
            return
        talks = {request.id: _Conversation(prompt, request) for request, prompt in asked}
        left, done = len(talks), asyncio.Event()

        def over(whole: Sampled) -> None:
            nonlocal left
            left -= len(whole)
            finish(whole)
            if not left:
                done.set()

        async def listen(asking: Asking, replying: asyncio.TaskGroup) -> None:
            while True:
                whole: Sampled = []
                for request, response in await asking.answers():
                    talk = talks[request.id.partition("/")[0]]
                    if talk.prompt.environment:
                        own = self._go_on(talk, request, response, asking, over)
                        replying.create_task(own)
                    else:
                        whole.append((request, response))
                if whole:
                    over(whole)

        try:
            with self._rollout.asking() as asking:
                asking.put([request for request, _ in asked])
                async with asyncio.TaskGroup() as replying:
                    listening = replying.create_task(listen(asking, replying))
                    await done.wait()
                    listening.cancel()
        except ExceptionGroup as failures:  # of the task group: what failed speaks for itself
            raise (first := failures.exceptions[0]) from first.__cause__

    async def _go_on(
        self,
        talk: _Conversation,
        request: Request,
        response: Response,
        asking: Asking,
        over: Callable[[Sampled], None],
    ) -> None:
        """After a turn: have it replied to, and ask for the next one or end the conversation."""
        talk.parts.append(response)
        if response.truncated:
            talk.close_turn(None)
            return over([(talk.request, talk.response(response.finish_reason))])
        ids = response.token_ids.tolist()
        [text] = self._decoder.batch_decode([ids], skip_special_tokens=True)
        [reply] = await self._verifiers.reply([(talk.prompt, text, talk.state)])
        if not reply.failure:
            talk.state = reply.state
        if reply.observation is None:
            ended, observed = "stop", []
        else:
            observed = self._template.encode(reply.observation, ids[-1])
            ended = "turns" if len(talk.parts) >= self._config.environment.max_turns else ""
        room = talk.request.sampling.max_tokens - talk.length - len(observed)
        if ended or room < 1:
            talk.close_turn(reply)
            return over([(talk.request, talk.response(ended or "length"))])
        talk.close_turn(reply, observed)
        turn = len(talk.turns)
        following = replace(
            request,
            id=f"{talk.request.id}/{turn}",
            token_ids=[*request.token_ids, *ids, *observed],
            seed=turn_seed(talk.request.seed, turn),
            sampling=replace(request.sampling, max_tokens=room),
            choices=0,
        )
        asking.put([following])


def check_conversations(
    config: RunConfig, tokenizer: Any, prompts: Sequence[Prompt], continued: bool = False
) -> None:
    """Raise ConfigError for conversations that cannot be had.

    Args:
        continued: whether responses will be sampled on from their beginnings, as an audit does.
    """
    names = {prompt.environment for prompt in prompts} - {""}
    for name in names:
        environment_module(name)
    if not names:
        return
    observation_template(config.data, config.environment, tokenizer)
    asked = [m for m in credit_methods(config).values() if isinstance(m, StepAdvantages)]
    if continued or asked or config.evaluation.audit:
        raise ConfigError(
            f"data.environment={min(names)}: audits and the credit methods vine and spo sample on "
            "from the beginnings of responses, which nothing would reply to. Use them without an "
            "environment."
        )
