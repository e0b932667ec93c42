"""Engines and learners that share their machines take turns, and come to the same numbers.

The rows are conversations, so that engines are asked, tools reply and engines are asked again
before the ranks have their turn.
"""

from __future__ import annotations

import os
import signal

import pyarrow.parquet as pq
import pytest
import torch

from rlvr.learner.group import LearnerGroup
from rlvr.loop.conversations import Conversations
from rlvr.rollout.pool import RolloutPool
from rlvr.weights.publish import WeightPublisher

OWN = [
    *("train.steps=2", "train.prompts_per_step=8", "train.checkpoint_every=1"),
    *("rollout.group_size=4", "learner.zero_stage=3", "learner.lr=3e-3"),
    *("evaluation.every=1", "evaluation.limit=4"),
]
COLOCATED = ["cluster.placement=colocated", "learner.offload=during_rollout"]


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """What the driver asks of its actors, in order; everything happens all the same."""
    seen: list[str] = []

    def listen(kind: type, name: str, words: str) -> None:
        method = getattr(kind, name)

        async def heard(self, *arguments, **options):
            plain = [str(a) for a in arguments if isinstance(a, str | int) and "/" not in str(a)]
            seen.append(" ".join([words, *plain]))
            return await method(self, *arguments, **options)

        monkeypatch.setattr(kind, name, heard)

    for name in ("start", "sleep", "wake_up"):
        listen(RolloutPool, name, f"engines {name}")
    for name in ("start", "rebuild", "sleep", "wake_up", "score", "update"):
        listen(LearnerGroup, name, f"learners {name}")
    for name in ("save_checkpoint", "save_model"):
        listen(LearnerGroup, name, f"learners {name}")
    listen(WeightPublisher, "publish", "weights publish")
    listen(Conversations, "each", "engines sample")
    return seen


@pytest.fixture
def kill_a_rank_in_update(calls, monkeypatch):
    """Arrange it, once."""

    def arrange() -> None:
        update = LearnerGroup.update

        async def disturbed(group):
            monkeypatch.setattr(LearnerGroup, "update", update)
            pid = await group.workers[1].__ray_call__.remote(lambda _: os.getpid())
            os.kill(pid, signal.SIGKILL)
            return await update(group)

        monkeypatch.setattr(LearnerGroup, "update", disturbed)

    return arrange


def to_the_engines(version: int) -> list[str]:
    return [
        "learners sleep",
        "engines wake_up weights",
        f"weights publish {version}",
        "engines wake_up kv_cache",
    ]


@pytest.mark.timeout(600)
def test_turns_change_the_order_of_calls_and_nothing_else(
    session, guesser, talking, weights, tmp_path, calls, kill_a_rank_in_update, capfd
):
    own = [*OWN, f"data.train=[{talking}]", f"data.eval=[{guesser}/rows.jsonl]"]

    def same(name: str) -> None:
        a, b = (weights(tmp_path / run) for run in ("apart", name))
        assert all(torch.equal(a[k], b[k]) for k in a)
        for number in (1, 2):
            file = f"responses/step_{number:06d}.parquet"
            x, y = (pq.read_table(tmp_path / run / file) for run in ("apart", name))
            assert x["response"].to_pylist() == y["response"].to_pylist()
            assert x["turns"].to_pylist() == y["turns"].to_pylist()

    step = ["engines sleep", "learners wake_up", "learners score", "learners update"]
    rest = ["learners save_checkpoint", "engines sample"]  # the second is the evaluation's
    steps = [
        *to_the_engines(0),
        *("engines sample", *step, *to_the_engines(1), *rest),
        *("engines sample", *step, *to_the_engines(2), *rest),
        "learners save_model",
    ]
    adapters = "learner.lora.rank=4"
    session.train(tmp_path / "adapters_apart", *own, adapters)
    session.train(tmp_path / "apart", *own)
    talks = pq.read_table(tmp_path / "apart" / "responses" / "step_000001.parquet")["turns"]
    assert max(map(len, talks.to_pylist())) > 1
    calls.clear()
    apart, own = own, [*own, *COLOCATED]
    session.train(tmp_path / "first", *own)
    assert calls == ["engines start", "engines sleep", "learners start", *steps]
    same("first")

    calls.clear()
    session.train(tmp_path / "second", *own)
    assert calls == ["engines sleep", "learners wake_up", "learners rebuild", *steps]
    same("second")

    # A rank that dies takes engines and ranks back to the last checkpoint, which was written
    # of what lay on the host.
    calls.clear()
    kill_a_rank_in_update()
    own += [f"train.resume='{tmp_path}/second/checkpoints/step_000001'"]
    session.train(tmp_path / "third", *own)
    assert calls == [
        *("engines sleep", "learners wake_up", "learners rebuild", *to_the_engines(1)),
        "engines sample",  # the evaluation of step 1, of which this run has no record
        *("engines sample", *step),
        *("engines start", "engines sleep", "learners start", *to_the_engines(1)),
        *("engines sample", *step, *to_the_engines(2), *rest),
        "learners save_model",
    ]
    assert "starts again (1 of train.max_restarts=3)" in capfd.readouterr().out
    a, b = (weights(tmp_path / run) for run in ("apart", "third"))
    assert all(torch.equal(a[k], b[k]) for k in a)

    session.train(tmp_path / "adapters", *apart, *COLOCATED, adapters)
    c, d = (weights(tmp_path / run) for run in ("adapters_apart", "adapters"))
    assert all(torch.equal(c[k], d[k]) for k in c)
    assert not all(torch.equal(a[k], c[k]) for k in a)
