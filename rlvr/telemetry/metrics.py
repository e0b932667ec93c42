"""The numbers of a training step, as pure functions of its groups."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rlvr.types import Group, Outcome, Response, samples_of


def rollout_metrics(groups: Sequence[Group], version: int) -> dict[str, float]:
    """Rewards, verdicts, lengths, spread and staleness of the batch that updates ``version``."""
    samples = samples_of(groups)
    responses, verdicts = [s.response for s in samples], [s.verdict for s in samples]
    reward = np.array([v.reward for v in verdicts])
    length = np.array([len(r.token_ids) for r in responses])
    lag = version - np.concatenate([r.policy_version for r in responses])
    correct = [[s.verdict.outcome is Outcome.CORRECT for s in g.samples] for g in groups]
    return {
        "rollout/reward_mean": float(reward.mean()),
        "rollout/reward_std": float(reward.std()),
        "rollout/accuracy": _share(c for group in correct for c in group),
        "rollout/responses": len(responses),
        **{f"verifier/{o}": _share(v.outcome is o for v in verdicts) for o in Outcome},
        "verifier/seconds_mean": float(np.mean([v.seconds for v in verdicts])),
        "verifier/seconds_max": max(v.seconds for v in verdicts),
        "length/mean": float(length.mean()),
        "length/max": int(length.max()),
        "length/min": int(length.min()),
        "length/truncated": _share(r.truncated for r in responses),
        "groups/with_spread": _share(g.has_spread for g in groups),
        "groups/all_correct": _share(all(c) for c in correct),
        "groups/all_wrong": _share(not any(c) for c in correct),
        **_turns(responses),
        "staleness/mean": float(lag.mean()),
        "staleness/max": int(lag.max()),
    }


def _turns(responses: Sequence[Response]) -> dict[str, float]:
    """Of conversations; nothing if there are none."""
    talks = [r.turns for r in responses if r.turns]
    if not talks:
        return {}
    number = [len(turns) for turns in talks]
    return {
        "turns/mean": float(np.mean(number)),
        "turns/max": max(number),
        "turns/out_of_turns": _share(r.finish_reason == "turns" for r in responses),
        "turns/observed_tokens": float(
            np.mean([sum(len(t.observation) for t in x) for x in talks])
        ),
        "turns/without_reply": _share(turn.failed for turns in talks for turn in turns),
        "turns/reward": float(np.mean([sum(t.reward for t in turns) for turns in talks])),
    }


def throughput(groups: Sequence[Group], timings: Mapping[str, float]) -> dict[str, float]:
    """Response tokens per second of the whole step; none without ``time/step_s``."""
    seconds = timings.get("time/step_s", 0.0)
    tokens = sum(len(s.response.token_ids) for s in samples_of(groups))
    return {"throughput/tokens_per_second": tokens / seconds} if seconds > 0 else {}


def json_clean(row: Mapping[str, Any]) -> dict[str, Any]:
    """``row`` as JSON can say it: NaN and infinity become None, ``nonfinite`` counts them."""
    lost: list[str] = []
    text = json.dumps(row, default=lambda x: x.tolist() if hasattr(x, "tolist") else dict(x))
    cleaned: dict[str, Any] = json.loads(text, parse_constant=lost.append)
    return {**cleaned, "nonfinite": len(lost)} if lost else cleaned


def _share(flags: Iterable[bool]) -> float:
    return float(np.mean(list(flags)))
