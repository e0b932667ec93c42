"""Plan against measurement, without a GPU: python tests/bench/plan.py

Two learner ranks of one thread each, fp32, random Qwen3 models: for every ZeRO stage and with
gradient checkpointing on and off, two steps of scoring and update, twice. Memory is the most that a
rank was resident with (VmHWM) beyond what it held after the same on a tiny model, so that libraries
do not count; what is freed goes back to the system at once. Time is measured apart from it, with
the allocator as it is by default, since fresh pages for every tensor make a step take half as long
again. It is the processor's, of the second step, for the machine may have other work.

What the plan has to be told of a processor is measured in the same process group, before a model's
cases and without DeepSpeed: the FLOP/s of the bare model's forward and backward (GFLOP/s), an
all-gather of its weights, and the bytes that AdamW goes through in a second.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from rlvr.config import ClusterConfig, RunConfig
from rlvr.learner.cost import Flops
from rlvr.loop.resolve import resolved

TOKENS, PROMPT, GROUPS, GROUP = 1024, 4, 8, 4  # of a rank's micro-batch; of the rollout batch
RESPONSE = 2 * TOKENS // (GROUPS * GROUP) - PROMPT
MODELS = {  # hidden, intermediate, layers, vocabulary
    "tiny": (64, 128, 1, 512),
    "20M": (384, 1536, 6, 8192),
    "40M": (512, 2048, 8, 8192),
    "100M": (768, 3072, 10, 8192),
}
_RATES = ("flops", "link", "adam")
CASES = list(product((0, 2, 3), (False, True)))  # ZeRO stage, gradient checkpointing


def save(name: str, folder: str) -> str:
    """Write the model as a Hugging Face folder."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    hidden, inner, layers, words = MODELS[name]
    path = f"{folder}/{name}"
    config = Qwen3Config(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=max(1, hidden // 128),
        head_dim=64,
        vocab_size=words,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    if not Path(path).exists():
        Qwen3ForCausalLM(config).float().save_pretrained(path)
    return path


def configuration(path: str, stage: int, checkpointing: bool) -> RunConfig:
    """One mini-batch a step that every rank takes in one micro-batch; credit keeps everything."""
    config = RunConfig(cluster=ClusterConfig(gpus_per_node=0))
    config.model.path, config.model.dtype = path, "float32"
    config.data.max_prompt_tokens, config.rollout.max_response_tokens = PROMPT, RESPONSE
    config.rollout.group_size, config.train.prompts_per_step = GROUP, GROUPS
    config.credit = {"name": "delta"}
    config.learner.ranks, config.learner.zero_stage = 2, stage
    config.learner.gradient_checkpointing = checkpointing
    config.learner.tokens_per_micro_batch = config.learner.tokens_per_scoring_batch = TOKENS
    config.learner.logits_mib = 16
    config.train.steps = 2
    return resolved(config)


def rank_process(rank: int, port: str, folders: list[str]) -> None:
    """A rank: prints what it measured, a line for each case of the last of ``folders``."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, DS_ACCELERATOR="cpu")
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK="0")
    torch.set_num_threads(1)
    import deepspeed

    deepspeed.init_distributed("gloo", verbose=False)
    for folder in folders:
        core = _core(folder)
        for stage, on in CASES:
            gc.collect()
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
            before = _status("VmRSS")
            found = _two_steps(configuration(folder, stage, on), rank)
            print("MEASURED " + json.dumps({"bytes": _status("VmHWM") - before, **core, **found}))
            sys.stdout.flush()
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _core(folder: str) -> dict[str, float]:
    """Rates of one rank while the other does the same: FLOP/s, and bytes a second."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.randint(
        2, model.config.vocab_size, (TOKENS // (PROMPT + RESPONSE), PROMPT + RESPONSE)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
    flops = Flops.of_model(model)
    size = sum(p.numel() for p in model.parameters())
    shard, weights = torch.zeros(size // 2), torch.zeros(size // 2 * 2)

    def forward_and_backward() -> None:
        logits = model(ids).logits[:, PROMPT - 1 : -1]
        logp = torch.log_softmax(logits, -1).gather(-1, ids[:, PROMPT:, None])
        logp.sum().backward()

    tokens, pairs = ids.numel(), ids.numel() * ids.shape[1] / 2
    forward = tokens * flops.token + pairs * flops.pair
    forward += ids[:, PROMPT:].numel() * flops.response_token
    return {
        "flops": 3 * forward / _seconds(forward_and_backward),
        "adam": 32 * size / _seconds(optimizer.step),
        "link": 4
        * size
        / _seconds(lambda: torch.distributed.all_gather_into_tensor(weights, shard)),
    }


def _seconds(call: Callable[[], object]) -> float:
    """Processor time of a call, the median of five after a first one."""
    taken = []
    for _ in range(6):
        began = time.process_time()
        call()
        taken.append(time.process_time() - began)
    return sorted(taken[1:])[2]


def _two_steps(config: RunConfig, rank: int) -> dict[str, float]:
    from rlvr.learner.rank import LearnerRank

    learner = LearnerRank(config, torch.device("cpu"), 0)
    seconds = {}
    for _ in range(2):
        learner.load(_batch(config, learner.policy.model.config.vocab_size, rank))
        for stage in (learner.score, lambda: learner.assign_credit(), learner.update):
            began = time.process_time()
            stage()
            name = getattr(stage, "__name__", "")
            seconds["credit" if name == "<lambda>" else name] = time.process_time() - began
    learner.engine.destroy()
    return seconds


def _batch(config: RunConfig, words: int, rank: int):
    from rlvr.learner.batching import rank_batches
    from rlvr.types import Group, Outcome, Response, Sample

    draw = np.random.default_rng(0)
    groups = []
    for _ in range(GROUPS):
        prompt = SimpleNamespace(token_ids=draw.integers(2, words, PROMPT))
        samples = []
        for i in range(GROUP):
            ids = draw.integers(2, words, RESPONSE).astype(np.int32)
            zeros = np.zeros(RESPONSE, np.float32)
            response = Response(ids, zeros, zeros.astype(np.int32), "stop")
            outcome = Outcome.CORRECT if i % 2 else Outcome.INCORRECT
            verdict = SimpleNamespace(reward=float(i % 2), outcome=outcome)
            samples.append(Sample(response, "", verdict))
        groups.append(Group(prompt, samples))
    advantages = np.tile([-1.0, 1.0], GROUPS * GROUP // 2).astype(np.float32)
    return rank_batches(groups, advantages, ranks=2, groups_per_mini_batch=GROUPS)[rank]


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def measured(folders: list[str], **environment: str) -> Iterator[dict[str, float]]:
    """The larger rank's bytes and seconds of each stage, the slower one's rates; case by case."""
    with socket.socket() as s:
        s.bind(("", 0))
        port = str(s.getsockname()[1])
    env = {**os.environ, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, __file__, "--rank"]
    ranks = [
        subprocess.Popen(
            [*command, str(r), port, *folders], stdout=subprocess.PIPE, text=True, env=env
        )
        for r in range(2)
    ]
    try:
        lines = [
            (json.loads(x.split(" ", 1)[1]) for x in rank.stdout if x.startswith("MEASURED "))
            for rank in ranks
        ]
        for pair in zip(*lines, strict=True):
            yield {k: (min if k in _RATES else max)(r[k] for r in pair) for k in pair[0]}
    finally:
        for rank in ranks:
            rank.kill()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="+", default=["20M", "40M"])
    parser.add_argument("--rank", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        rank_process(int(options.rank[0]), options.rank[1], options.rank[2:])
        return
    from rlvr.plan.hardware import EFFICIENCY, Gpu
    from rlvr.plan.memory import memory
    from rlvr.plan.shape import shape_of
    from rlvr.plan.stages import learner_stages
    from rlvr.plan.workload import Assumptions, workload

    assumed = Assumptions(response=RESPONSE, prompt=PROMPT, active=1.0)
    print("| model | ZeRO | checkpointing | MB planned | measured | ratio ", end="")
    print(
        "| s planned | measured | ratio | GFLOP/s | gather, GB/s | AdamW, GB/s |\n"
        + "| --- " * 12
        + "|",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: save(name, folder) for name in ("tiny", *options.models)}
        at_once = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed goes back
        exact = iter([got["bytes"] for got in measured(list(paths.values()), **at_once)])
        for _ in CASES:  # of the tiny model, for the libraries to be loaded
            next(exact)
        results = measured(list(paths.values())[1:])
        for model, (stage, on) in product(options.models, CASES):
            config = configuration(paths[model], stage, on)
            shape, work = shape_of(config.model), workload(config, assumed)
            size = sum(memory(config, shape, None, work).learner.values())
            got = {**next(results), "bytes": next(exact)}
            print(model, stage, on, json.dumps(got), file=sys.stderr, flush=True)
            hbm, link = got["adam"] / EFFICIENCY.hbm, got["link"] / EFFICIENCY.network
            core = Gpu("core", 0.0, got["flops"], hbm, link, link, hbm, 0.0, 1.0, False)
            timed = learner_stages(config, shape, core, work, "device")
            seconds = sum(timed[name].seconds for name in ("score", "update"))
            real = got["score"] + got["update"]
            cells = [
                model,
                stage,
                "on" if on else "off",
                *_beside(size / 1e6, got["bytes"] / 1e6, 0),
                *_beside(seconds, real, 2),
                *(f"{got[name] / 1e9:.1f}" for name in _RATES),
            ]
            print("|", " | ".join(map(str, cells)), "|", flush=True)


def _beside(planned: float, real: float, digits: int) -> list[str]:
    return [f"{planned:.{digits}f}", f"{real:.{digits}f}", f"{planned / real:.2f}"]


if __name__ == "__main__":
    main()
