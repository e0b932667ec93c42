"""The numbers of a step against hand-made groups."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlvr.telemetry.metrics import json_clean, rollout_metrics, throughput


def test_of_two_groups(make_group):
    mixed = make_group([(4, "correct", 1.0), (8, "incorrect", 0.0)], version=3, seconds=0.5)
    wrong = make_group([(6, "timeout", 0.0), (2, "unparseable", 0.0)], version=1, seconds=2.5)
    found = rollout_metrics([mixed, wrong], version=3)
    assert found == {
        "rollout/reward_mean": 0.25,
        "rollout/reward_std": pytest.approx(math.sqrt(3) / 4),
        "rollout/accuracy": 0.25,
        "rollout/responses": 4,
        "verifier/correct": 0.25,
        "verifier/incorrect": 0.25,
        "verifier/unparseable": 0.25,
        "verifier/timeout": 0.25,
        "verifier/error": 0.0,
        "verifier/seconds_mean": 1.5,
        "verifier/seconds_max": 2.5,
        "length/mean": 5.0,
        "length/max": 8,
        "length/min": 2,
        "length/truncated": 0.0,
        "groups/with_spread": 0.5,
        "groups/all_correct": 0.0,
        "groups/all_wrong": 0.5,
        "staleness/mean": pytest.approx(2 * 8 / 20),  # over tokens
        "staleness/max": 2,
    }


def test_shaped_rewards_are_no_accuracy(make_group):
    group = make_group([(4, "correct", 0.7), (4, "correct", 0.9)], finish="length")
    found = rollout_metrics([group], version=0)
    assert found["rollout/accuracy"] == 1.0 and found["groups/all_correct"] == 1.0
    assert found["groups/with_spread"] == 1.0 and found["length/truncated"] == 1.0


def test_throughput(make_group):
    groups = [make_group([(4, "correct", 1.0), (8, "correct", 1.0)])]
    rate = {"throughput/tokens_per_second": 6.0}
    assert throughput(groups, {"time/step_s": 2.0}) == rate
    assert throughput(groups, {}) == {}


def test_what_json_cannot_say_is_counted():
    row = {"a": math.nan, "b": [1.0, -math.inf], "c": {"d": np.float32("inf")}, "e": 2}
    assert json_clean(row) == {
        "a": None,
        "b": [1.0, None],
        "c": {"d": None},
        "e": 2,
        "nonfinite": 3,
    }
    tensors = {"t": torch.tensor([1.0, math.nan]), "n": np.int64(3), 4: np.arange(2)}
    assert json_clean(tensors) == {"t": [1.0, None], "n": 3, "4": [0, 1], "nonfinite": 1}


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.dictionaries(st.text().filter(lambda name: name != "nonfinite"), values, max_size=4))
def test_json_says_whatever_is_clean(row):
    cleaned = json_clean(row)
    assert json.loads(json.dumps(cleaned, allow_nan=False)) == cleaned
    if "nonfinite" not in cleaned:
        assert cleaned == row
