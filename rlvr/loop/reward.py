"""The reward: made here and nowhere else, from a verdict, the response's form and its length."""

import math
import re
from dataclasses import asdict

import torch

from rlvr.algorithm.overlong import overlong_penalty
from rlvr.config import RunConfig, VerifierConfig
from rlvr.errors import ConfigError
from rlvr.types import Outcome, Response, Verdict
from rlvr.verify.format import well_formed


class Reward:
    """Turns a verifier's own verdict into the one that is trained on.

    A verifier's reward places the response between incorrect (0) and correct (1); the other
    outcomes have a reward of their own. Each part's share stays in ``Verdict.components``:
    ``outcome``, where they are switched on ``format_bonus`` and ``overlong``, and of a conversation
    ``environment``, the sum over its turns.
    """

    def __init__(self, config: RunConfig) -> None:
        self._outcomes = config.verifier.rewards
        self._format = config.verifier.format
        self._limit = config.rollout.max_response_tokens
        self._buffer = config.train.overlong_buffer
        self._factor = config.train.overlong_factor

    def __call__(self, verdict: Verdict, text: str, response: Response) -> Verdict:
        parts = {"outcome": self._of_outcome(verdict)}
        if self._format.bonus:
            parts["format_bonus"] = self._format.bonus * well_formed(text, self._format.tags)
        if self._buffer:
            length = torch.tensor([len(response.sequence)])
            penalty = overlong_penalty(length, self._limit, self._buffer, self._factor)
            parts["overlong"] = float(penalty)
        if response.turns:
            parts["environment"] = sum(turn.reward for turn in response.turns)
        components = {**verdict.components, **parts}
        # Not ``replace``, which takes longer than all of the rest.
        own = verdict.outcome, verdict.detail, verdict.seconds
        return Verdict(sum(parts.values()), *own, components)

    def _of_outcome(self, verdict: Verdict) -> float:
        rewards = self._outcomes
        if verdict.outcome in (Outcome.CORRECT, Outcome.INCORRECT):
            return rewards.incorrect + verdict.reward * (rewards.correct - rewards.incorrect)
        return float(getattr(rewards, verdict.outcome))


def check_rewards(config: VerifierConfig) -> None:
    """Raises ConfigError for a reward that is no number or a tag that is no name."""
    for outcome, reward in asdict(config.rewards).items():
        if not math.isfinite(reward):
            raise ConfigError(f"verifier.rewards.{outcome}={reward}: must be a finite number.")
    if not math.isfinite(config.format.bonus):
        raise ConfigError(f"verifier.format.bonus={config.format.bonus}: must be a finite number.")
    for tag in config.format.tags:
        if not re.fullmatch(r"[\w-]+", tag):
            raise ConfigError(f"verifier.format.tags: '{tag}' must be a name without brackets.")
