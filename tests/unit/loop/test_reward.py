from __future__ import annotations

import random

import numpy as np
import pytest

from rlvr.config import FormatConfig, RewardConfig, RunConfig, VerifierConfig
from rlvr.errors import ConfigError
from rlvr.loop.reward import Reward, check_rewards
from rlvr.types import Outcome, Response, Verdict
from rlvr.verify.format import well_formed


def rewarded(verdict: Verdict, text: str = "", length: int = 3, **settings) -> Verdict:
    config = RunConfig()
    config.rollout.max_response_tokens = 10
    config.verifier = VerifierConfig(**settings)
    config.train.overlong_buffer, config.train.overlong_factor = 4, 2.0
    if "overlong" not in text:
        config.train.overlong_buffer = 0
    zeros = np.zeros(length, np.int32)
    return Reward(config)(verdict, text, Response(zeros, zeros, zeros, "stop"))


def test_by_default_a_reward_is_the_verifiers_own() -> None:
    for reward in (0.0, 0.3, 1.0):
        verdict = rewarded(Verdict(reward, Outcome.INCORRECT))
        assert verdict.reward == reward
        assert verdict.components == {"outcome": reward}


def test_each_outcome_has_its_reward(seed) -> None:
    rewards = RewardConfig(*[random.uniform(-2, 2) for _ in range(5)])
    for outcome in Outcome:
        own = 1.0 if outcome is Outcome.CORRECT else 0.0
        expected = getattr(rewards, outcome)
        assert rewarded(Verdict(own, outcome), rewards=rewards).reward == pytest.approx(expected)
    half = rewarded(Verdict(0.5, Outcome.INCORRECT), rewards=rewards).reward
    assert half == pytest.approx((rewards.correct + rewards.incorrect) / 2)


def test_the_bonus_is_added_whatever_the_outcome() -> None:
    settings = {"rewards": RewardConfig(incorrect=-1)}
    settings |= {"format": FormatConfig(0.25, ["think", "answer"])}
    text = "<think>\nhm\n</think>\n<answer>5</answer>\n"
    verdict = rewarded(Verdict(0.0, Outcome.INCORRECT, components={"x": 9}), text, **settings)
    assert verdict.reward == -0.75
    assert verdict.components == {"x": 9, "format_bonus": 0.25, "outcome": -1}
    plain = rewarded(Verdict(1.0, Outcome.CORRECT), "5", **settings)
    assert plain.reward == 1 and plain.components["format_bonus"] == 0


@pytest.mark.parametrize(("length", "penalty"), [(6, 0.0), (8, -1.0), (10, -2.0)])
def test_what_is_too_long_is_told_apart(length, penalty) -> None:
    verdict = rewarded(Verdict(1.0, Outcome.CORRECT), "overlong", length)
    assert verdict.components == {"outcome": 1.0, "overlong": penalty}
    assert verdict.reward == 1.0 + penalty


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
