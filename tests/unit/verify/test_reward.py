from __future__ import annotations

import random

import pytest

from rlvr.config import FormatConfig, RewardConfig, VerifierConfig
from rlvr.errors import ConfigError
from rlvr.task import Outcome, Verdict
from rlvr.verify.reward import check_rewards, rewarded, well_formed, with_bonus


def test_by_default_a_reward_is_the_verifiers_own() -> None:
    for reward in (0.0, 0.3, 1.0):
        verdict = rewarded(Verdict(reward, Outcome.INCORRECT), VerifierConfig())
        assert verdict.reward == reward
        assert verdict.components == {"outcome": reward}


def test_each_outcome_has_its_reward(seed: int) -> None:
    dice = random.Random(seed)
    rewards = RewardConfig(*[dice.uniform(-2, 2) for _ in range(5)])
    config = VerifierConfig(rewards=rewards)
    for outcome in Outcome:
        own = 1.0 if outcome is Outcome.CORRECT else 0.0
        assert rewarded(Verdict(own, outcome), config).reward == pytest.approx(
            getattr(rewards, outcome)
        )
    half = rewarded(Verdict(0.5, Outcome.INCORRECT), config).reward
    assert half == pytest.approx((rewards.correct + rewards.incorrect) / 2)


def test_the_bonus_is_added_whatever_the_outcome() -> None:
    config = VerifierConfig(
        rewards=RewardConfig(incorrect=-1), format=FormatConfig(0.25, ["think", "answer"])
    )
    text = "<think>\nhm\n</think>\n<answer>5</answer>\n"
    verdict = with_bonus(Verdict(0.0, Outcome.INCORRECT, components={"x": 9}), text, config.format)
    verdict = rewarded(verdict, config)
    assert verdict.reward == -0.75
    assert verdict.components == {"x": 9, "format_bonus": 0.25, "outcome": -1}
    plain = rewarded(with_bonus(Verdict(1.0, Outcome.CORRECT), "5", config.format), config)
    assert plain.reward == 1 and plain.components["format_bonus"] == 0


@pytest.mark.parametrize(
    ("text", "formed"),
    [
        ("<a>1</a><b>2</b>", True),
        (" <a></a>\n <b></b> ", True),
        ("<a>1</a>", False),
        ("<b>2</b><a>1</a>", False),
        ("x<a>1</a><b>2</b>", False),
        ("<a>1</a>x<b>2</b>", False),
        ("<a>1</a><b>2</b>x", False),
        ("<a><b>2</b></a>", False),
        ("<a>1<a></a><b>2</b>", False),
        ("</a>1<a><b>2</b>", False),
        ("<a>1</a><b>2", False),
        ("", False),
        ("<a>" * 10**5, False),
    ],
)
def test_form(text: str, formed: bool) -> None:
    assert well_formed(text, ["a", "b"]) is formed


def test_impossible_settings() -> None:
    with pytest.raises(ConfigError, match="verifier.rewards.timeout"):
        check_rewards(VerifierConfig(rewards=RewardConfig(timeout=float("nan"))))
    with pytest.raises(ConfigError, match="format.tags"):
        check_rewards(VerifierConfig(format=FormatConfig(0.1, ["<think>"])))
