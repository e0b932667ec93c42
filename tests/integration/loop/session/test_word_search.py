"""Conversations in half precision. The last of the folder: its engines are of use to no other."""

from __future__ import annotations

import pyarrow.parquet as pq


def test_a_model_of_half_precision_searches(session, rows, guesser, tmp_path):
    """bfloat16 under ZeRO-3 on two ranks, and passages that are found by words of a turn."""
    passages = [f"w{i} w{i + 1}" for i in range(30)]
    (tmp_path / "passages.txt").write_text("\n".join(passages))
    session.train(
        tmp_path / "run",
        *("model.dtype=bfloat16", "learner.zero_stage=3", "learner.lr=3e-3", "train.steps=2"),
        *("train.prompts_per_step=8", "rollout.group_size=16", "objective=dapo", "credit=thr"),
        *("data.environment=search_file", f"environment.passages='{tmp_path}/passages.txt'"),
        *("environment.results=2", "rollout.max_response_tokens=40"),
    )
    steps = [row for row in rows(tmp_path / "run/metrics.jsonl") if "rollout/reward_mean" in row]
    for row in steps:
        assert row["turns/max"] > 1 and row["turns/without_reply"] == 0
        assert row["mismatch/logp_max"] < 0.2 and abs(row["mismatch/kl"]) < 1e-3
    found = set()
    for step in (1, 2):
        file = tmp_path / "run" / "responses" / f"step_{step:06d}.parquet"
        for row in pq.read_table(file).to_pylist():
            assert len(row["coefficient"]) == row["response_tokens"] == len(row["tokens"])
            found |= {turn["said"] for turn in row["turns"]}
    assert any("w3 w4" in text for text in found), found
