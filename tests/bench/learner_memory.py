"""What a learner rank holds at its peak: python tests/bench/learner_memory.py

One rank on a CPU, a process for each case. After a step that warms up, the peak of every further
step (load, score, credit of delta, update) beyond what the process held before it, weights and
optimizer state included. All tokens are one micro-batch.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from repeats import Repeats, table

MIB = 2**20
TOKENS = (1_024, 2_048, 4_096, 8_192)
VOCABULARIES = (8_000, 32_000, 152_000)
SEQUENCE = 256  # tokens of a prompt and a response
# Freed memory goes back at once, or what was held before a step would hold all that a step needs.
PROMPT_FREES = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}


def step_peaks(folder: str, tokens: int, vocabulary: int, repeats: int) -> dict[str, list[float]]:
    """MiB held before each step, and what its peak adds."""
    os.environ |= {"DS_ACCELERATOR": "cpu", "LOCAL_RANK": "0"}
    import deepspeed
    import torch
    import torch.distributed as dist
    from synthetic import save_qwen3, verified_groups

    from rlvr.config import RunConfig
    from rlvr.learner.batching import rank_batches
    from rlvr.learner.rank import LearnerRank

    torch.set_num_threads(1)  # threads have arenas of their own
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    deepspeed.init_distributed("gloo", verbose=False)
    save_qwen3(folder, 256, 4, vocabulary)
    config = RunConfig()
    config.model.path, config.model.dtype = folder, "float32"
    config.credit = {"name": "delta"}
    config.learner.ranks, config.learner.zero_stage = 1, 2
    config.learner.tokens_per_micro_batch = config.learner.tokens_per_scoring_batch = 2 * tokens
    learner = LearnerRank(config, torch.device("cpu"), pad_token_id=0)
    groups, advantages = verified_groups(tokens // SEQUENCE // 4, 4, SEQUENCE - 16, vocabulary)
    [batch] = rank_batches(groups, advantages, ranks=1, groups_per_mini_batch=len(groups))
    held, peaks = [], []
    for _ in range(repeats + 1):
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
        before = status("VmRSS")
        learner.load(batch)
        learner.score()
        learner.assign_credit()
        learner.update()
        held.append(before)
        peaks.append(status("VmHWM") - before)
    dist.destroy_process_group()
    return {"held": held[1:], "peak": peaks[1:]}


def status(field: str) -> float:
    """A line of this process's status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def case(tokens: int, vocabulary: int, repeats: int) -> dict[str, Repeats]:
    """``step_peaks`` in a process of its own."""
    command = [sys.executable, __file__, "--case", str(tokens), str(vocabulary)]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [*command, "--folder", folder, "--repeats", str(repeats)],
            env=os.environ | PROMPT_FREES,
            stdout=subprocess.PIPE,
            text=True,
            timeout=600,
            check=True,
        )
    return {k: Repeats(v) for k, v in json.loads(done.stdout.splitlines()[-1]).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="the smallest case alone")
    parser.add_argument("--case", type=int, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        print(json.dumps(step_peaks(given.folder, *given.case, given.repeats)))
        return
    cases = [(n, VOCABULARIES[0]) for n in TOKENS] + [(TOKENS[1], v) for v in VOCABULARIES[1:]]
    rows = []
    for tokens, vocabulary in cases[:1] if given.tiny else cases:
        found = case(tokens, vocabulary, given.repeats)
        rows.append([f"{tokens:,}", f"{vocabulary:,}", *(f"{x:.0f}" for x in found.values())])
        print(", ".join(rows[-1]), flush=True)
    print(f"\nMiB; medians of {given.repeats} steps, least and most in brackets\n")
    print(table(["tokens", "vocabulary", "held before a step", "its peak beyond that"], rows))


if __name__ == "__main__":
    main()
