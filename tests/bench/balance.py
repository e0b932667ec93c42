"""How long ranks wait for the slowest: prints slowest ÷ mean of the update's operations.

Without a run, response lengths are lognormal up to 20,000 tokens (median 3,000), 128 groups of 8,
a prompt of 200 tokens, 60 % of the groups with spread, at the shape of Qwen3-8B. With one, the
lengths and rewards are those that its log of responses has, step by step.

``whole``: over the whole mini-batch. ``in step``: micro-batch by micro-batch, where ZeRO-3 makes
ranks wait for each other. ``all tokens``: shares of equal tokens, whether active or not.
"""

from __future__ import annotations

import argparse
from argparse import RawDescriptionHelpFormatter as RawText
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from rlvr.config import RunConfig
from rlvr.learner.batching import micro_batches, rank_batches
from rlvr.learner.cost import Flops, StepCost
from rlvr.types import Group, Outcome, Prompt, Response, Sample, TokenBatch, Verdict

QWEN3_8B = Flops(token=1.39e10, pair=4.0 * 4096 * 36, response_token=1.24e9)
BUDGET = 32_768


def drawn(steps: int = 5) -> Iterator[list[Group]]:
    generator = np.random.default_rng(0)
    for _ in range(steps):
        groups = []
        for g in range(128):
            active = generator.random() < 0.6
            rewards = [float(active and i == 0) for i in range(8)]
            lengths = generator.lognormal(8.0, 0.7, 8).clip(1, 20_000).astype(int)
            groups.append(group(g, 200, lengths, rewards))
        yield groups


def recorded(folder: str) -> Iterator[list[Group]]:
    for file in sorted(Path(folder).glob("responses/step_*.parquet")):
        rows = pq.read_table(file).to_pylist()
        found: dict[str, list[dict]] = {}
        for row in rows:
            found.setdefault(row["prompt_id"], []).append(row)
        yield [
            group(
                g,
                own[0]["prompt_tokens"],
                [r["response_tokens"] for r in own],
                [r["reward"] for r in own],
            )
            for g, own in enumerate(found.values())
        ]


def group(g: int, prompt: int, lengths: list[int], rewards: list[float]) -> Group:
    samples = []
    for n, reward in zip(lengths, rewards, strict=True):
        ids = np.zeros(int(n), np.int32)
        response = Response(ids, ids.astype(np.float32), ids, "stop")
        samples.append(Sample(response, "", Verdict(float(reward), Outcome.INCORRECT)))
    return Group(Prompt(str(g), [0] * prompt, "", "", "exact"), samples)


def waits(groups: list[Group], ranks: int, balanced: bool) -> tuple[float, float]:
    advantages = np.concatenate([g.rewards - g.rewards.mean() for g in groups])
    cost = StepCost(RunConfig(), QWEN3_8B)
    batches = rank_batches(
        groups,
        advantages,
        ranks=ranks,
        groups_per_mini_batch=len(groups),
        cost=cost if balanced else None,
    )
    own = [portions(b) for b in batches]
    most = max(map(len, own))
    rounds = [portions(b, most) for b in batches] if balanced else own
    whole = torch.tensor([sum(r) for r in rounds])
    together = sum(max(r) for r in zip_longest(*rounds, fillvalue=0.0))
    return float(whole.max() / whole.mean()), float(together / whole.mean())


def portions(batch: TokenBatch, least: int = 1) -> list[float]:
    """Operations of a rank's micro-batches, in the order in which it computes them."""
    active = batch.advantage != 0
    costs = QWEN3_8B.of_sequences(batch, active)
    own = micro_batches(batch, torch.nonzero(active)[:, 0], costs, BUDGET, least)
    return [float(costs[members].sum()) for members in own]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=RawText)
    parser.add_argument("run", nargs="?", help="folder of a run")
    run = parser.parse_args().run
    steps = list(recorded(run) if run else drawn())
    print("| ranks | all tokens, whole | in step | by cost, whole | in step |")
    print("| --- | --- | --- | --- | --- |")
    for ranks in (2, 4, 8, 16):
        figures = [[*waits(s, ranks, False), *waits(s, ranks, True)] for s in steps]
        print(f"| {ranks} | " + " | ".join(f"{x:.3f}" for x in np.median(figures, 0)) + " |")


if __name__ == "__main__":
    main()
