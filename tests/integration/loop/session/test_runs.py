"""Runs of one session: they share their engines, and nothing else."""

from __future__ import annotations

import json
import math
from collections import Counter
from itertools import product
from operator import itemgetter

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from rlvr.algorithm.compatibility import compatible
from rlvr.algorithm.credit import CREDITS
from rlvr.algorithm.objectives import OBJECTIVES
from rlvr.evaluate import evaluate_checkpoints
from rlvr.registry import Registry

STEPS = 2


def trained_steps(rows: list[dict]) -> list[dict]:
    return [row for row in rows if "rollout/reward_mean" in row]


def test_a_run_leaves_no_trace_in_the_next(session, rows, weights, tmp_path):
    """The third run of a session comes to the first one's numbers, bit for bit.

    Between them is one with other verifiers, by which no response is without an answer.
    """
    common = [
        "rollout.group_size=4",
        "learner.lr=3e-3",
        "train.steps=3",
        "train.prompts_per_step=8",
    ]
    found = []
    for name, own in {
        "first": [],
        "second": ["credit=delta", "rollout.temperature=0.7", "data.verifier=regex"],
        "third": [],
    }.items():
        session.train(tmp_path / name, *common, *own)
        found.append(session.engines())
    assert found[0] == found[1] == found[2], "the engines were not kept"
    unread = [
        max(row["verifier/unparseable"] for row in trained_steps(rows(run / "metrics.jsonl")))
        for run in (tmp_path / name for name in ("first", "second", "third"))
    ]
    assert unread[0] == unread[2] > 0 == unread[1]
    a, b, c = (weights(tmp_path / name) for name in ("first", "second", "third"))
    assert all(torch.equal(a[k], c[k]) for k in a)
    assert not all(torch.equal(a[k], b[k]) for k in a)
    for step in (1, 2, 3):
        x, y = (
            pq.read_table(tmp_path / name / "responses" / f"step_{step:06d}.parquet")
            for name in ("first", "third")
        )
        assert x["response"].to_pylist() == y["response"].to_pylist()


def test_ranks_that_share_sequences_train_as_others_do(session, rows, weights, tmp_path):
    common = ["rollout.group_size=4", "credit=delta", "train.steps=1", "train.prompts_per_step=8"]
    own, shared = tmp_path / "own", tmp_path / "shared"
    session.train(own, *common)
    session.train(shared, *common, "learner.sequence_parallel=2")
    [expected], [actual] = (trained_steps(rows(run / "metrics.jsonl")) for run in (own, shared))
    names = [k for k in expected if k.startswith(("score/", "credit/", "update/", "mismatch/"))]
    names.remove("credit/assign_s")
    names.remove("update/prompt_passes")  # of a group that is split between ranks, more than one
    assert {"score/tokens", "update/grad_norm", "update/active_share"} <= set(names)
    for name in names:
        assert actual[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-6), name
    a, b = weights(own), weights(shared)
    assert all(torch.allclose(a[k], b[k], atol=1e-5) for k in a)
    logs = [pq.read_table(run / "responses" / "step_000001.parquet") for run in (own, shared)]
    for x, y in zip(*(log.to_pylist() for log in logs), strict=True):
        assert x["coefficient"] == pytest.approx(y["coefficient"], rel=2e-3)
        assert len(x["tokens"]) == len(x["coefficient"]) == x["response_tokens"]
    assert np.concatenate(logs[0]["coefficient"].to_pylist()).std() > 0


def built_in(registry: Registry) -> list[str]:
    """Without the methods of other tests."""
    entries = {name: registry.find(name, registry.kind) for name in registry.names()}
    return [name for name, e in entries.items() if e.method.__module__.startswith("rlvr.")]


def pairs() -> list[tuple[str, str]]:
    """Every credit with an objective at least, every objective with two credits."""
    credits, objectives = built_in(CREDITS), built_in(OBJECTIVES)
    every = sorted(
        product(credits, objectives),  # diagonal by diagonal
        key=lambda pair: (objectives.index(pair[1]) - credits.index(pair[0])) % len(objectives),
    )
    chosen, runs = [], Counter()
    for wanted in (all, any):  # first those of which both have too few
        for pair in every:
            few = wanted(runs[kind] < 1 + kind[0] for kind in enumerate(pair))
            if few and pair not in chosen and compatible(*pair) is None:
                chosen.append(pair)
                runs.update(enumerate(pair))
    return chosen


def test_every_method_trains(session, rows, weights, tmp_path):
    """What each pair computes is held to formulas elsewhere; here it goes through real engines."""
    totals: dict[float, tuple[str, str]] = {}
    for credit, objective in pairs():
        run = tmp_path / f"{credit}-{objective}"
        session.train(
            run,
            f"credit={credit}",
            f"objective={objective}",
            f"train.steps={STEPS}",
            "train.prompts_per_step=4",
            "train.prompts_per_mini_batch=2",
            "rollout.group_size=4",
            "correction=tis",
            "learner.zero_stage=3",
            "learner.lr=1e-3",
            "learner.gradient_checkpointing=false",
        )
        steps = trained_steps(rows(run / "metrics.jsonl"))
        assert len(steps) == STEPS, run.name
        assert not any("nonfinite" in row for row in steps), run.name
        assert any(0 < row["rollout/reward_mean"] < 1 for row in steps), run.name
        assert all(math.isfinite(row["update/grad_norm"]) for row in steps), run.name
        assert any(row["update/grad_norm"] > 0 for row in steps), run.name
        total = float(sum(w.double().square().sum() for w in weights(run).values()))
        if credit != "nthr":  # where no token is over its threshold it rightly is uniform
            assert total not in totals, f"{run.name} is {totals[total]}"
            totals[total] = credit, objective


def test_rollout_answers_for_credit_while_it_lags_behind(session, guesser, rows, tmp_path):
    """The versions fit even so, or the run would fail; and the tokens that stand out are kept."""
    session.train(
        tmp_path / "run",
        "credit=oar_p",
        "credit.engine=rollout",
        "credit.check_responses=4",
        "objective=dapo",
        "correction=tis",
        "train.steps=4",
        "train.prompts_per_step=4",
        "train.max_staleness=1",
        "rollout.group_size=8",
        "learner.lr=1e-3",
    )
    steps = trained_steps(rows(tmp_path / "run" / "metrics.jsonl"))
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    assert max(row["staleness/max"] for row in steps) == 1
    correlation = [row["credit/rank_correlation"] for row in steps if row["groups/with_spread"]]
    assert correlation and min(correlation) > 0.99
    tokens = rows(tmp_path / "run" / "tokens.jsonl")
    for step in {token["step"] for token in tokens}:
        own = [token["coefficient"] for token in tokens if token["step"] == step]
        assert own == sorted(own, reverse=True) and len(own) <= 20
    words = json.loads((guesser / "tokenizer.json").read_text())["model"]["vocab"]
    assert tokens and {t["token"].strip() for t in tokens} <= {word.strip() for word in words}


def test_an_evaluation_of_a_checkpoint_finds_what_its_run_found(
    session, rows, talking, tmp_path, monkeypatch
):
    """Turn by turn, with engines that load what was saved; the second call asks nothing.

    The run's folder says where its checkpoints lie, and is asked from another folder.
    """
    monkeypatch.chdir(tmp_path)
    session.train(
        tmp_path / "run",
        "rollout.group_size=4",
        "learner.lr=1e-3",
        "train.steps=1",
        "train.prompts_per_step=4",
        "train.checkpoint_every=1",
        "train.checkpoint_dir=elsewhere",
        f"data.eval=[{talking}]",
        "environment.max_turns=2",
        "evaluation.at_end=true",
        "evaluation.samples=2",
        "evaluation.limit=8",
    )
    columns = ["prompt_id", "sample", "response", "outcome", "turns"]
    folder = tmp_path / "run" / "benchmark" / "step_000001"
    (tmp_path / "another").mkdir()
    monkeypatch.chdir(tmp_path / "another")
    for _ in range(2):
        evaluate_checkpoints(tmp_path / "run", ["cluster=local_cpu"])
        for measure, count in {"greedy": 8, "avg_at_2": 16}.items():
            name = f"evaluation/{measure}/step_000001.parquet"
            there = pq.read_table(tmp_path / "run" / name, columns=columns).to_pylist()
            found = pq.read_table(folder / "responses" / measure, columns=columns).to_pylist()
            key = itemgetter("prompt_id", "sample")
            assert len(found) == count
            assert sorted(found, key=key) == sorted(there, key=key)
    assert sorted(p.name for p in folder.iterdir()) == [
        "responses",
        "result.json",
        "result.md",
        "settings.json",
    ]
    result = json.loads((folder / "result.json").read_text())
    [row] = [
        r for r in rows(tmp_path / "run" / "metrics.jsonl") if "evaluation/greedy/accuracy" in r
    ]
    assert result["greedy"]["all"]["accuracy"]["value"] == row["evaluation/greedy/accuracy"]


def test_groups_in_the_order_in_which_they_finish(session, rows, tmp_path):
    """Every prompt is trained on once an epoch, and none too late."""
    session.train(
        tmp_path / "run",
        "objective=dapo",
        "correction=tis",
        "train.steps=8",
        "train.prompts_per_step=4",
        "train.max_staleness=2",
        "train.batch_order=finished",
        "rollout.group_size=4",
        "learner.lr=1e-3",
    )
    steps = trained_steps(rows(tmp_path / "run" / "metrics.jsonl"))
    assert [row["step"] for row in steps] == list(range(1, 9))
    assert 0 < max(row["staleness/max"] for row in steps) <= 2
    files = sorted((tmp_path / "run" / "responses").glob("*.parquet"))
    prompts = Counter(p for file in files for p in pq.read_table(file)["prompt"].to_pylist())
    assert len(prompts) == 32 and set(prompts.values()) == {4}
