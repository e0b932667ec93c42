"""Plan against measurement, without a GPU: python tests/bench/plan.py

Two learner ranks of one thread each, fp32, random Qwen3 models: for every ZeRO stage and with
gradient checkpointing on and off, two steps of scoring and update. Memory is the most that a rank
was resident with (VmHWM) beyond what it held after the same on a tiny model, so that libraries do
not count. Time is the processor's, of the second step, since the machine may have other work; what
the processor can do is measured in the same minute, with matrix products and a copy.
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
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from rlvr.config import ClusterConfig, RunConfig
from rlvr.loop.resolve import resolved

TOKENS, PROMPT, GROUPS, GROUP = 1024, 4, 8, 4  # of a rank's micro-batch; of the rollout batch
RESPONSE = 2 * TOKENS // (GROUPS * GROUP) - PROMPT
MODELS = {  # hidden, intermediate, layers, vocabulary
    "tiny": (64, 128, 1, 512),
    "20M": (384, 1536, 6, 8192),
    "40M": (512, 2048, 8, 8192),
    "100M": (768, 3072, 10, 8192),
}


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


def rank_process(arguments: dict, rank: int) -> None:
    """A rank: prints what it measured."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(arguments["port"]))
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK="0", DS_ACCELERATOR="cpu")
    torch.set_num_threads(1)
    import deepspeed

    deepspeed.init_distributed("gloo", verbose=False)
    sizes = {}
    for name in ("tiny", arguments["model"]):
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
        sizes["before"] = _status("VmRSS")
        path = arguments["paths"][name]
        config = configuration(path, arguments["stage"], arguments["checkpointing"])
        seconds = _two_steps(config, rank)
    measured = {"bytes": _status("VmHWM") - sizes["before"], **seconds}
    print("MEASURED " + json.dumps(measured), flush=True)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _two_steps(config: RunConfig, rank: int) -> dict[str, float]:
    from rlvr.learner.rank import LearnerRank

    learner = LearnerRank(config, torch.device("cpu"), 0)
    seconds = {}
    for _ in range(2):
        learner.load(_batch(config, learner.policy.model.config.vocab_size, rank))
        for stage in (learner.score, lambda: learner.assign_credit(0), learner.update):
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


def measured(model: str, stage: int, checkpointing: bool, paths: dict) -> dict[str, float]:
    """The larger rank's bytes, and seconds of each stage."""
    with socket.socket() as s:
        s.bind(("", 0))
        port = s.getsockname()[1]
    told = json.dumps(
        {
            "model": model,
            "stage": stage,
            "checkpointing": checkpointing,
            "paths": paths,
            "port": port,
        }
    )
    # What is freed goes back to the system at once.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    env |= {"OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, "--rank", str(rank), told],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
        )
        for rank in range(2)
    ]
    results = []
    for process in ranks:
        out, err = process.communicate(timeout=350)
        lines = [x for x in out.splitlines() if x.startswith("MEASURED ")]
        if not lines:
            raise RuntimeError(err[-3000:])
        results.append(json.loads(lines[0].removeprefix("MEASURED ")))
    return {key: max(r[key] for r in results) for key in results[0]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="+", default=["20M", "40M", "100M"])
    parser.add_argument("--stages", nargs="+", type=int, default=[0, 2, 3])
    parser.add_argument("--rank", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank:
        rank_process(json.loads(options.rank[1]), int(options.rank[0]))
        return
    from rlvr.plan.hardware import probe
    from rlvr.plan.memory import memory
    from rlvr.plan.shape import shape_of
    from rlvr.plan.stages import learner_stages
    from rlvr.plan.workload import Assumptions, workload

    assumed = Assumptions(response=RESPONSE, prompt=PROMPT, active=1.0)
    print(
        "| model | ZeRO | checkpointing | MB planned | measured | ratio "
        "| s planned | measured | ratio |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: save(name, folder) for name in ("tiny", *options.models)}
        for model in options.models:
            for stage in options.stages:
                for checkpointing in (False, True):
                    config = configuration(paths[model], stage, checkpointing)
                    shape, work = shape_of(config.model), workload(config, assumed)
                    parts = memory(config, shape, None, work).learner
                    size = sum(parts.values())
                    got = measured(model, stage, checkpointing, paths)
                    timed = learner_stages(config, shape, probe(), work, "device")
                    seconds = sum(timed[name].seconds for name in ("score", "update"))
                    real = got["score"] + got["update"]
                    print(
                        f"| {model} | {stage} | {'on' if checkpointing else 'off'} "
                        f"| {size / 1e6:.0f} | {got['bytes'] / 1e6:.0f} "
                        f"| {size / got['bytes']:.2f} "
                        f"| {seconds:.2f} | {real:.2f} | {seconds / real:.2f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
