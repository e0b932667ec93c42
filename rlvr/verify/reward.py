"""From a verdict's outcome to the reward, and the bonus for a response's form.

Both leave their share in ``Verdict.components``, beside what the verifier itself put there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, replace

from rlvr.config import FormatConfig, VerifierConfig
from rlvr.errors import ConfigError
from rlvr.task import Outcome, Verdict

OUTCOME, BONUS = "outcome", "format_bonus"  # names of components


def rewarded(verdict: Verdict, config: VerifierConfig) -> Verdict:
    """The verdict with the configured reward.

    A verifier's own reward places it between incorrect (0) and correct (1); the other outcomes
    have a reward of their own.
    """
    rewards = config.rewards
    if verdict.outcome in (Outcome.CORRECT, Outcome.INCORRECT):
        reward = rewards.incorrect + verdict.reward * (rewards.correct - rewards.incorrect)
    else:
        reward = getattr(rewards, verdict.outcome)
    components = {**verdict.components, OUTCOME: reward}
    return replace(verdict, reward=reward + components.get(BONUS, 0.0), components=components)


def with_bonus(verdict: Verdict, text: str, config: FormatConfig) -> Verdict:
    """The verdict with its bonus among the components; ``rewarded`` adds it up."""
    if not config.bonus:
        return verdict
    bonus = config.bonus * well_formed(text, config.tags)
    return replace(verdict, components={**verdict.components, BONUS: bonus})


def well_formed(text: str, tags: Sequence[str]) -> bool:
    """Whether ``text`` is ``<a>...</a> <b>...</b>`` for these tags, each once, in this order."""
    position = 0
    for tag in tags:
        opening, closing = f"<{tag}>", f"</{tag}>"
        if text.count(opening) != 1 or text.count(closing) != 1:
            return False
        start, end = text.index(opening), text.index(closing)
        if start < position or text[position:start].strip() or end < start + len(opening):
            return False
        position = end + len(closing)
    return not text[position:].strip()


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
