"""The command: from a run's own words to a plan, without its files."""

from __future__ import annotations

import json
import shlex

import pytest

from rlvr.plan.__main__ import main

DELTA = ["+recipe=delta_qwen3_8b", "cluster=1x8"]


def test_text_names_parts_stages_and_bounds(capsys) -> None:
    main(DELTA)
    text = capsys.readouterr().out
    for told in ("optimizer 24.6", "KV cache 48.6", "rollout", "HBM", "220 steps take", "fits"):
        assert told in text


def test_json_says_the_same(capsys) -> None:
    main(["--json", *DELTA, "--gpu", "H200", "--response", "8000"])
    told = json.loads(capsys.readouterr().out)
    assert told["gpu"] == "H200" and told["fits"] and told["layouts"] == []
    assert told["mean_response"] == pytest.approx(8000, rel=0.01)
    assert told["memory_gb"]["learner"]["optimizer"] == pytest.approx(12 * 8.1907 / 4, rel=1e-3)
    assert {s["bound"] for s in told["stages"].values()} <= {
        "FLOPs",
        "HBM",
        "network",
        "host",
        "latency",
    }
    assert told["hours"] == pytest.approx(told["step_s"] * 220 / 3600)


def test_what_does_not_fit_comes_with_changes_that_do(capsys) -> None:
    words = ["+recipe=delta_qwen3_14b", "cluster=1x8", "learner.offload=none", "--json"]
    main(words)
    told = json.loads(capsys.readouterr().out)
    assert not told["fits"]
    assert told["layouts"][0]["overrides"].startswith("learner.offload=")
    kept = [w for w in words if not w.startswith("learner.offload")]
    pasted = shlex.split(told["layouts"][0]["overrides"])
    main([*kept, *pasted])
    again = json.loads(capsys.readouterr().out)
    assert again["fits"]
    assert again["step_s"] == pytest.approx(told["layouts"][0]["step_s"])


def test_where_nothing_fits_the_cluster_grows(capsys) -> None:
    main(["+recipe=delta_qwen3_14b", "cluster=1x2", "learner.offload=none", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert not told["fits"] and told["layouts"]
    assert all(layout["fits"] for layout in told["layouts"])


def test_a_sweep_is_sorted_and_no_slower(capsys) -> None:
    main(["+recipe=thr_exploit_qwen2.5_math_1.5b", "cluster=1x2", "--sweep", "--json"])
    told = json.loads(capsys.readouterr().out)
    steps = [layout["step_s"] for layout in told["layouts"]]
    assert steps == sorted(steps, key=lambda s: round(s, -1)) and steps[0] <= told["step_s"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["+recipe=delta_qwen3_8b", "cluster=1x8", "--gpu", "v100"], "--gpu v100: unknown"),
        (["+recipe=delta_qwen3_8b", "learner.rank=2"], r"learner\.rank: no such key"),
        (["+recipe=delta_qwen3_8b", "cluster=1x8", "learner.ranks=9"], "each needs at least one"),
        (["+recipe=delta_qwen3_8b", "credit=uniform,delta"], "one value a key"),
    ],
)
def test_mistakes_are_told_as_for_a_run(words, told) -> None:
    with pytest.raises(SystemExit, match=told):
        main(words)
