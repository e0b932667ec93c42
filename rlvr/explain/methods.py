"""Credit methods on given responses: the learner's own scoring and assignment, on one process."""

import sys
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

import numpy as np

from rlvr.algorithm.advantages import ADVANTAGES
from rlvr.algorithm.credit import CREDITS, Prefix, Question
from rlvr.algorithm.credit.shadow import prepared
from rlvr.algorithm.metrics import values
from rlvr.config import RunConfig
from rlvr.errors import ConfigError, DataError
from rlvr.explain.explanation import Explanation
from rlvr.learner.batching import rank_batches
from rlvr.learner.policy import Policy
from rlvr.learner.scoring import ScoringRank
from rlvr.loop.answers import AnswerFinder
from rlvr.loop.batch import RolloutBatch
from rlvr.telemetry.progress import phase
from rlvr.telemetry.token_texts import TokenTexts
from rlvr.types import IN_USE, Group, TokenChoices, samples_of


def explained(
    config: RunConfig,
    methods: dict[str, dict[str, Any]],
    policy: Policy,
    tokenizer: Any,
    groups: Sequence[Group],
) -> Explanation:
    """Token coefficients by each of ``methods``, nodes of the configuration by their labels.

    All groups together are one rollout batch, which is scored once; the first method is compared
    with each other one. DataError if no response has an advantage.
    """
    batch = RolloutBatch(0, list(groups), {})
    advantages = batch.advantages(ADVANTAGES.build(config.advantage, "advantage"))
    if not advantages.any():
        raise DataError(
            "every advantage is 0, so there is nothing to share among tokens: no two responses to "
            "the same prompt have different rewards."
        )
    if not methods:
        raise ConfigError("credit: no method is named.")
    built = {label: CREDITS.build(node, "credit") for label, node in methods.items()}
    first = next(iter(built))
    own = {IN_USE if label == first else label: method for label, method in built.items()}
    driver = _NoEngines(config.verifier, tokenizer)
    device, pad = policy.head.weight.device, driver.pad_token_id
    with phase(f"credit by {', '.join(methods)}"):
        rank = ScoringRank(config, device, pad, policy, policy, methods=own)
        inputs = _now(prepared(own, groups, driver))
        mini = len(groups)
        [part] = rank_batches(
            groups, advantages, ranks=1, groups_per_mini_batch=mini, inputs=inputs
        )
        rank.load(part)
        rank.score()
        report, found = rank.assign_credit(wanted=True)
    assert found is not None
    coefficients = {
        label: [c for _, c in sorted(found.by_response(as_used), key=lambda pair: pair[0])]
        for label, as_used in zip(methods, own, strict=True)
    }
    texts = TokenTexts(lambda ids: tokenizer.batch_decode(ids, skip_special_tokens=False))
    tokens = texts.of([s.response.token_ids for s in samples_of(groups)])
    return Explanation(groups, advantages, tokens, coefficients, values(report))


class _NoEngines(AnswerFinder):
    """The ``Driver`` protocol where no engine runs."""

    longest = sys.maxsize

    async def ask(self, questions: Iterable[Question]) -> list[TokenChoices]:
        raise ConfigError(
            "this credit method asks rollout engines, and here are none: set credit.engine=learner"
        )

    async def values(self, prefixes: Sequence[Prefix], samples: int) -> list[np.ndarray]:
        raise ConfigError("this credit method asks rollout engines to go on, and here are none")


def _now(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What the coroutine returns; nothing in it waits, and a notebook has a loop of its own."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise ConfigError("this credit method waits for something that is not here")
