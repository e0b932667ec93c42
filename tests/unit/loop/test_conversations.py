"""Turns put together: every id that was sampled or said, once, in its place."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import pytest

from rlvr.config import RunConfig
from rlvr.errors import ConfigError, RolloutError
from rlvr.loop.conversations import Conversations, check_conversations
from rlvr.rollout.request import Request, Sampling, turn_seed
from rlvr.rollout.routing import Asking
from rlvr.types import Prompt, Reply, Response

STOP, MOST = 9, 60


class ScriptedPool:
    """Turns of one to five tokens, most of them stopped; answers come in any order."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.asked: list[Request] = []
        self.given: dict[str, Response] = {}
        self.failure: RolloutError | None = None

    def asking(self):
        pool = self

        class Session:
            def __enter__(self):
                return Asking(pool.ask)

            def __exit__(self, *_):
                return None

        return Session()

    def ask(self, requests, sink) -> None:
        for request in requests:
            self.asked.append(request)
            asyncio.get_running_loop().create_task(self.answer(request, sink))

    async def answer(self, request, sink) -> None:
        for _ in range(self.dice.randrange(4)):
            await asyncio.sleep(0)
        n = min(self.dice.randint(1, 5), request.sampling.max_tokens)
        stopped = self.dice.random() < 0.9
        ids = np.array(self.dice.choices(range(10, 99), k=n), np.int32)
        if stopped:
            ids[-1] = STOP
        version = np.full(n, len(self.asked), np.int32)
        reason = "stop" if stopped else "length"
        response = Response(ids, -np.random.rand(n).astype(np.float32), version, reason)
        self.given[request.id] = response
        sink.put_nowait(self.failure or [(request, response)])


class ScriptedEnvironments:
    """Replies with the number of the turn, until it has had enough of it."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.heard: list[tuple[str, str]] = []
        self.states: dict[str, list] = {}

    async def reply(self, turns):
        [(prompt, text, state)] = turns
        self.heard.append((prompt.id, text))
        for _ in range(self.dice.randrange(5)):
            await asyncio.sleep(0)
        if self.dice.random() < 0.2:
            return [Reply("[error]", failure="it broke")]
        number = (state or 0) + 1
        ended = self.dice.random() < 0.3
        return [Reply(None if ended else f"said {number}", number, reward=0.25)]


class Words:
    """Token ids as text."""

    def batch_decode(self, sequences, *, skip_special_tokens):
        return [" ".join(str(i) for i in own if i != STOP) for own in sequences]


class Frame:
    """The ids of an observation: its length, and the token that the turn ended with."""

    def encode(self, observation, ended_by):
        return [1, len(observation), ended_by]


def talks(dice: random.Random, count: int, **environment):
    config = RunConfig()
    for key, value in environment.items():
        setattr(config.environment, key, value)
    pool, environments = ScriptedPool(dice), ScriptedEnvironments(dice)
    conversations = Conversations(config, pool, environments, Words())
    conversations.__dict__["_template"] = Frame()
    sampling = Sampling(1.0, 1.0, 0, MOST, (STOP,))
    asked = [
        (
            Request(f"0:{p}:0", [5] * (p % 3 + 1), 100 + p, sampling),
            Prompt(f"p{p}", [5] * (p % 3 + 1), "", "", "exact", environment="x" if p % 4 else ""),
        )
        for p in range(count)
    ]
    return conversations, pool, environments, asked


def had(conversations, asked) -> dict[str, Response]:
    found: dict[str, Response] = {}

    def finish(sampled) -> None:
        for request, response in sampled:
            assert request.id not in found
            found[request.id] = response

    asyncio.run(asyncio.wait_for(conversations.each(asked, finish), 20))
    return found


@pytest.mark.parametrize("max_turns", [1, 3, 50])
def test_a_response_is_its_turns_with_what_was_said_between_them(seed, max_turns):
    conversations, pool, _, asked = talks(random.Random(seed), 40, max_turns=max_turns)
    found = had(conversations, asked)
    assert found.keys() == {request.id for request, _ in asked}
    seen = set()
    for request, prompt in asked:
        response = found[request.id]
        own = [r for r in pool.asked if r.id.split("/")[0] == request.id]
        parts = [pool.given[r.id] for r in own]
        seen.add(response.finish_reason)
        assert response.token_ids.tolist() == [i for p in parts for i in p.token_ids.tolist()]
        assert response.policy_version.tolist() == [
            v for p in parts for v in p.policy_version.tolist()
        ]
        np.testing.assert_array_equal(
            response.logp_rollout, np.concatenate([p.logp_rollout for p in parts])
        )
        if not prompt.environment:
            assert response.turns == () and len(parts) == 1
            continue
        assert len(response.turns) == len(parts) <= max_turns
        assert len(response.sequence) <= MOST
        # what the engine read before each turn is what stands before it
        for turn, (asked_for, part) in enumerate(zip(own, parts, strict=True)):
            first = response.turns[turn - 1].end if turn else 0
            at = response.places[first]
            before = [*prompt.token_ids, *response.sequence[:at].tolist()]
            assert list(asked_for.token_ids) == before
            assert asked_for.seed == turn_seed(request.seed, turn)
            assert asked_for.sampling.max_tokens == MOST - at
            end = response.turns[turn].end
            assert response.token_ids[first:end].tolist() == part.token_ids.tolist()
        assert response.turns[-1].end == len(response.token_ids)
        assert len(response.turns[-1].observation) == 0
        np.testing.assert_array_equal(response.sequence[response.places], response.token_ids)
        assert response.last_turn == (response.turns[-2].end if len(parts) > 1 else 0)
        for turn in response.turns[:-1]:
            assert turn.observation.tolist() == [1, len(turn.said), STOP]
            assert turn.failed == (turn.said == "[error]") and turn.reward == 0.25 * (
                not turn.failed
            )
    assert {"stop", "length"} <= seen and (max_turns == 50) != ("turns" in seen)


def test_a_state_survives_a_turn_without_reply(seed):
    conversations, _, environments, asked = talks(random.Random(seed), 60, max_turns=50)
    found = had(conversations, asked)
    several = [r for r in found.values() if sum(t.failed for t in r.turns[:-1])]
    assert several
    for response in several:
        numbers = [t.said for t in response.turns[:-1] if not t.failed]
        assert numbers == [f"said {n}" for n in range(1, len(numbers) + 1)]
    texts = {text for _, text in environments.heard}
    assert not any(str(STOP) in text.split() for text in texts)


def test_turns_have_seeds_of_their_own():
    seeds = [turn_seed(7, turn) for turn in range(5)]
    assert seeds[0] == 7 and len(set(seeds)) == 5
    assert turn_seed(None, 3) is None and turn_seed(7, 2) == turn_seed(7, 2)


def test_a_pool_that_fails_ends_them_with_its_own_words(seed):
    conversations, pool, _, asked = talks(random.Random(seed), 8)
    pool.failure = RolloutError("no engine is left")
    with pytest.raises(RolloutError, match="no engine is left"):
        had(conversations, asked)


def test_what_cannot_be_had_is_told_before_anything_starts():
    prompts = [Prompt("p", [1], "", "", "exact", environment="dialogue")]
    config = RunConfig()
    config.data.template = "none"
    config.credit = {"name": "vine"}
    check_conversations(config, None, [Prompt("p", [1], "", "", "exact")])
    config.environment.plain_template = "{observation}"
    with pytest.raises(ConfigError, match="vine"):
        check_conversations(config, Plain(), prompts)
    config.credit = {"name": "uniform"}
    check_conversations(config, Plain(), prompts)
    with pytest.raises(ConfigError, match="audits"):
        check_conversations(config, Plain(), prompts, continued=True)
    with pytest.raises(ConfigError, match="Did you mean 'dialogue'"):
        other = Prompt("p", [1], "", "", "exact", environment="dialog")
        check_conversations(config, Plain(), [other])


class Plain:
    """A tokenizer of nothing."""

    all_special_ids = ()
    unk_token_id = None

    def __call__(self, text, **_):
        return {"input_ids": []}

    def decode(self, ids, **_):
        return ""
