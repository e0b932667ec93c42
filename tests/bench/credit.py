"""What the credit stage costs beside the head: python tests/bench/credit.py [--tokens 200000]

Credit methods on kept random features, without a model, on the CPU; the yardstick is what the
scoring pass itself spends in lm_head (measured on some tokens and scaled up), which in a language
model is a small part of a forward pass. Seconds are the processor's, not the wall's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from rlvr.algorithm.credit import CREDITS, SoloRanks
from rlvr.learner.features import ScoringFeatures
from rlvr.learner.logprob import ChunkedLogProb
from rlvr.types import TokenBatch

WIDTH, VOCABULARY, LENGTH, GROUP = 1024, 32_000, 1000, 8
SAMPLE = 1024  # tokens on which the head is timed
METHODS = [
    {"name": "delta"},
    {"name": "delta", "proxy": "topk_hidden"},
    {"name": "thr"},
    {"name": "entropy_top"},
    {"name": "random"},
]


class Head:
    """A policy that has nothing but its head."""

    hidden_size, dtype, pad_token_id = WIDTH, torch.float32, 0

    def __init__(self) -> None:
        self.weight = torch.randn(VOCABULARY, WIDTH) / WIDTH**0.5

    @contextmanager
    def head(self) -> Iterator[Tensor]:
        """The rows of lm_head."""
        yield self.weight


def drawn(tokens: int) -> TokenBatch:
    """Responses of equal length to prompts of one token, words as unequal as in real text."""
    dice = np.random.default_rng(0)
    responses = max(tokens // LENGTH // GROUP, 1) * GROUP
    whole = LENGTH + 1
    reward = torch.from_numpy(dice.integers(0, 2, responses)).float()
    reward[::GROUP], reward[1::GROUP] = 1, 0
    words = dice.zipf(1.2, responses * whole) % (VOCABULARY - 1) + 1
    index = torch.arange(responses * whole).view(responses, whole)
    return TokenBatch(
        input_ids=torch.from_numpy(words),
        position_ids=index[0].repeat(responses),
        cu_seqlens=(torch.arange(responses + 1) * whole).int(),
        token_index=index[:, 1:].flatten(),
        sequence_id=torch.arange(responses).repeat_interleave(LENGTH),
        logp_rollout=torch.zeros(responses * LENGTH),
        policy_version=torch.zeros(responses * LENGTH, dtype=torch.long),
        prompt_length=torch.ones(responses, dtype=torch.long),
        reward=reward,
        advantage=2 * reward - 1,
        correct=reward > 0,
        truncated=reward < 0,
        group_id=torch.arange(responses) // GROUP,
        mini_batch=torch.zeros(responses, dtype=torch.long),
        response_id=torch.arange(responses),
    )


def seconds(work: Callable[[], object]) -> float:
    """The lesser of two runs."""
    times = []
    for _ in range(2):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=200_000)
    torch.manual_seed(0)
    policy, batch = Head(), drawn(parser.parse_args().tokens)
    n = batch.num_response_tokens
    everything = torch.ones(n, dtype=torch.bool)
    features = ScoringFeatures(everything, policy, 1.0, store="device", recompute=lambda: iter(()))
    place = torch.arange(n)
    statistic = torch.rand(n)
    normaliser = torch.full((n,), float(np.log(VOCABULARY)) + 0.5)
    features.keep(place, (-5 * statistic, 5 * statistic, normaliser), torch.randn(n, WIDTH))

    hidden = torch.randn(SAMPLE, WIDTH)
    target = batch.input_ids[:SAMPLE]
    elements = 256 * 2**20 // 4
    with torch.no_grad():
        head = seconds(lambda: ChunkedLogProb.apply(hidden, policy.weight, target, 1.0, elements))
    head *= n / SAMPLE
    print(f"{n} tokens of width {WIDTH}, {torch.get_num_threads()} threads", flush=True)
    print(f"{'lm_head in the scoring pass':<32}{head:>9.2f} s", flush=True)
    for options in METHODS:
        method = CREDITS.build(options, "credit")
        cost = seconds(lambda: method.assign(batch, features, SoloRanks()))  # noqa: B023
        label = " ".join(str(v) for v in options.values())
        print(f"{label:<32}{cost:>9.2f} s {cost / head:>7.1%} of it", flush=True)


if __name__ == "__main__":
    main()
