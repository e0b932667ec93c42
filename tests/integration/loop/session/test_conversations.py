"""Whole runs of conversations: engine and learner agree over turns, and only turns are learned."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

# The guesser ends a turn one time in sixty-four: of the responses of a step some have several.
OWN = [
    *(
        "rollout.group_size=8",
        "train.prompts_per_step=8",
        "train.steps=2",
        "learner.lr=3e-3",
        "objective=dapo",
    ),
]


@pytest.mark.parametrize("staleness", [0, 1])
def test_engine_and_learner_agree_over_turns(session, rows, talking, tmp_path, staleness):
    session.train(
        tmp_path,
        *OWN,
        *("credit=delta", f"data.train=[{talking}]", f"train.max_staleness={staleness}"),
    )
    steps = [row for row in rows(tmp_path / "metrics.jsonl") if "rollout/reward_mean" in row]
    assert len(steps) == 2
    for row in steps:
        assert row["staleness/max"] <= staleness
        if not row["staleness/max"]:  # all tokens of every turn under the version at work
            assert row["mismatch/logp_max"] < 1e-5
        assert row["turns/max"] > 1 and row["turns/without_reply"] == 0
        assert row["turns/observed_tokens"] > 0
    talks = 0
    for step in (1, 2):
        table = pq.read_table(tmp_path / "responses" / f"step_{step:06d}.parquet").to_pylist()
        for row in table:
            ends = [turn["end"] for turn in row["turns"]]
            assert ends == sorted(ends) and ends[-1] == row["response_tokens"]
            assert json.loads(row["components"])["environment"] == sum(
                turn["reward"] for turn in row["turns"]
            )
            assert len(row["coefficient"]) == row["response_tokens"] == len(row["tokens"])
            talks += len(ends) > 1
    assert talks


def test_conversations_repeat_themselves(session, talking, tmp_path):
    """The same run twice has the same turns, whatever the order in which replies came."""
    texts = []
    for name in ("first", "second"):
        session.train(tmp_path / name, *OWN, f"data.train=[{talking}]")
        tables = [
            pq.read_table(tmp_path / name / "responses" / f"step_{step:06d}.parquet")
            for step in (1, 2)
        ]
        texts.append(
            [(t["response_token_ids"].to_pylist(), t["turns"].to_pylist()) for t in tables]
        )
    assert texts[0] == texts[1]
