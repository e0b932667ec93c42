"""What credit costs on one GPU: python tests/bench/gpu.py [--size 1.7b 8b] [--json FILE]

Drives the learner's own stages (load, score, assign credit, update) on one device, at the shapes
of Qwen3 with random weights and random tokens, packed, and sets them beside the bare forward and
forward + backward of the same network on the same sequences. The table comes last: one row for each
(shape, method). ``--size tiny`` is the same on any machine, in seconds.

Needs torch, transformers and this package. Without DeepSpeed a plain engine stands in for it.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import math
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Qwen3Config

from rlvr.algorithm.advantages import grpo_advantages
from rlvr.algorithm.credit import CREDITS
from rlvr.config import LearnerConfig, ModelConfig, RunConfig
from rlvr.learner import policy as policy_module
from rlvr.learner import rank as rank_module
from rlvr.learner.batching import rank_batches
from rlvr.learner.credit import CreditStage
from rlvr.learner.policy import Policy, load_policy
from rlvr.learner.rank import LearnerRank
from rlvr.types import (
    IN_USE,
    CreditInputs,
    Group,
    Outcome,
    Packing,
    Prompt,
    Response,
    Sample,
    TokenBatch,
    Verdict,
)

DTYPE = {"cuda": torch.bfloat16, "cpu": torch.float32}  # few processors are quick at bfloat16
GIB = 2**30


@dataclass(frozen=True)
class Shape:
    """A network of Qwen3's form, and how much it is given."""

    hidden: int
    layers: int
    intermediate: int
    heads: int
    key_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    groups: int  # of 8 responses
    median_response: int
    longest: int  # tokens of a sequence, and of a packing

    def config(self) -> Qwen3Config:
        """The network, as transformers describes it."""
        return Qwen3Config(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_heads,
            head_dim=self.head_dim,
            max_position_embeddings=self.longest,
            tie_word_embeddings=self.tied,
        )


SHAPES = {
    "tiny": Shape(64, 2, 128, 4, 2, 16, 320, True, 2, 24, 128),
    "1.7b": Shape(2048, 28, 6144, 16, 8, 128, 151936, True, 4, 1500, 16384),
    "4b": Shape(2560, 36, 9728, 32, 8, 128, 151936, True, 3, 1500, 16384),
    "8b": Shape(4096, 36, 12288, 32, 8, 128, 151936, False, 2, 1500, 16384),
}

# (label, credit, where the features wait); the dearest last.
METHODS: list[tuple[str, dict[str, Any], str]] = [
    ("uniform", {"name": "uniform"}, "auto"),
    ("delta", {"name": "delta"}, "device"),
    ("thr", {"name": "thr"}, "device"),
    ("delta, top-k proxy", {"name": "delta", "proxy": "topk_hidden"}, "device"),
    ("entropy_top", {"name": "entropy_top"}, "auto"),
    ("random", {"name": "random"}, "auto"),
    ("delta, host store", {"name": "delta"}, "host"),
    ("oar_g", {"name": "oar_g"}, "auto"),
    ("oar_p, 8 positions", {"name": "oar_p", "max_positions": 8}, "auto"),
    ("delta, recomputed", {"name": "delta"}, "recompute"),
]


class PlainEngine:
    """What LearnerRank asks of DeepSpeed, on one device: no shards, no fp32 master weights."""

    def __init__(self, policy: nn.Module, learner: LearnerConfig, _: ModelConfig) -> None:
        self.policy = policy
        self.max_norm = learner.max_grad_norm or math.inf
        self.optimizer = torch.optim.AdamW(policy.parameters(), lr=learner.lr, fused=True)
        self.norm = 0.0

    def __call__(self, packing: Packing, predict_index: Tensor, target: Tensor) -> Any:
        return self.policy(packing, predict_index, target)

    def backward(self, loss: Tensor, scale_wrt_gas: bool) -> None:
        """Add to the gradients, in the dtype of the weights."""
        loss.backward()

    def step(self) -> None:
        """Clip, step, forget the gradients."""
        self.norm = float(nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_norm))
        self.optimizer.step()
        self.optimizer.zero_grad()

    def was_step_applied(self) -> bool:
        """It always is."""
        return True

    def get_global_grad_norm(self) -> float:
        """Of the last step, before clipping."""
        return self.norm


class RandomWeights:
    """In the place of ``AutoModelForCausalLM``: the folder's shape, made on ``device``."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def from_pretrained(self, _: str, *, trust_remote_code: bool, **how: Any) -> nn.Module:
        """A freshly initialised network."""
        with self.device:
            return AutoModelForCausalLM.from_config(**how)


@dataclass
class Stage:
    """Seconds of each repeat, and the most memory that any of them held."""

    seconds: list[float]
    peak_gib: float

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)


class Clock:
    """Times stages between two synchronisations of the device."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"

    def time(self, stages: dict[str, Callable[[], Any]]) -> dict[str, Stage]:
        """Run all stages in turn, once to warm up, then three to seven times."""
        self._once(stages)
        result = {name: Stage([], 0.0) for name in stages}
        start = time.perf_counter()
        for k in range(7):
            if k >= 3 and time.perf_counter() - start > 6.0:
                break
            for name, (seconds, peak) in self._once(stages).items():
                result[name].seconds.append(seconds)
                result[name].peak_gib = max(result[name].peak_gib, peak)
        return result

    def _once(self, stages: dict[str, Callable[[], Any]]) -> dict[str, tuple[float, float]]:
        measured = {}
        for name, stage in stages.items():
            if self.cuda:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            stage()
            if self.cuda:
                torch.cuda.synchronize()
            measured[name] = (time.perf_counter() - start, self._peak())
        return measured

    def _peak(self) -> float:
        if self.cuda:
            return torch.cuda.max_memory_allocated() / GIB
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB  # since the start


def draw(shape: Shape) -> TokenBatch:
    """Groups of 8 with 1 to 7 correct responses, long-tailed in their lengths and their words."""
    dice = np.random.default_rng(0)

    def words(count: int) -> np.ndarray:
        return (dice.zipf(1.2, count) % (shape.vocabulary - 1) + 1).astype(np.int32)

    groups, spans = [], []
    for g in range(shape.groups):
        prompt = words(max(shape.longest // 64, 2)).tolist()
        lengths = shape.median_response * np.exp(0.9 * dice.standard_normal(8))
        lengths[0] = shape.longest if g == 0 else lengths[0]
        correct = dice.permutation(8) < dice.integers(1, 8)
        responses, verdicts = [], []
        for length, right in zip(lengths, correct, strict=True):
            n = int(np.clip(length, 8, shape.longest - len(prompt)))
            logp = np.full(n, -math.log(shape.vocabulary), np.float32)
            responses.append(Response(words(n), logp, np.zeros(n, np.int32), "stop"))
            outcome = Outcome.CORRECT if right else Outcome.INCORRECT
            verdicts.append(Verdict(float(right), outcome))
            spans.append([n - 4, n - 1])
        groups.append(
            Group(
                Prompt(str(g), prompt, "", "", "math"),
                [Sample(r, "", v) for r, v in zip(responses, verdicts, strict=True)],
            )
        )
    reward = torch.tensor([s.verdict.reward for g in groups for s in g.samples])
    group_id = torch.arange(len(groups)).repeat_interleave(8)
    [batch] = rank_batches(
        groups,
        grpo_advantages(reward, group_id).numpy(),
        ranks=1,
        groups_per_mini_batch=len(groups),
        inputs=CreditInputs(parts={IN_USE: CreditInputs({"answer_span": torch.tensor(spans)})}),
    )
    return batch


def forward_flops(shape: Shape, batch: TokenBatch, shared: bool) -> float:
    """Multiply-adds count two; a backward pass is two forwards, a recomputed one is not counted.

    ``shared``: the responses of a group continue one prompt.
    """
    length, prompt = batch.sequence_length.double(), batch.sequence_length - batch.response_length
    seen = torch.cat([batch.group_id.new_zeros(1), batch.group_id.diff()])
    again = prompt.double() * (seen == 0) if shared else torch.zeros_like(length)
    again[0] = 0.0
    attention = shape.hidden * shape.head_dim * 2 * (shape.heads + shape.key_heads)
    layer = attention + 3 * shape.hidden * shape.intermediate
    weights = shape.layers * layer * float((length - again).sum())
    head = shape.vocabulary * shape.hidden * batch.num_response_tokens
    pairs = float((length**2 - again**2).sum())
    return 2.0 * (weights + head + shape.layers * shape.heads * shape.head_dim * pairs)


class Bench:
    """All rows of one shape."""

    def __init__(self, name: str, device: torch.device, engine: str, until: float) -> None:
        self.name = name
        self.device = device
        self.clock = Clock(device)
        self.shape = SHAPES[name]
        self.batch = draw(self.shape).to(device)
        self.flops = forward_flops(self.shape, self.batch, shared=True)
        self.bare_flops = forward_flops(self.shape, self.batch, shared=False)
        self.engine = engine
        self.until = until
        self.peak_flops = 0.0

    def rows(self) -> Iterator[dict[str, Any]]:
        """Bare passes first, then the methods."""
        self.peak_flops = matmul_flops(self.device)
        b = self.batch
        say(
            f"{self.name}: {b.num_sequences} sequences, the longest {int(b.sequence_length.max())},"
            f" {b.num_tokens} tokens of which {b.num_response_tokens} response,"
            f" {self.flops / 1e12:.3g} TFLOP a forward;"
            f" a large matrix product runs at {self.peak_flops / 1e12:.4g} TFLOP/s"
        )
        random_weights = RandomWeights(self.device)
        with (
            tempfile.TemporaryDirectory() as folder,
            mock.patch.object(policy_module, "AutoModelForCausalLM", random_weights),
        ):
            self.shape.config().save_pretrained(folder)
            config = self._configuration(folder)
            bare = self._bare(config)
            for label, stage in bare.items():
                yield self._row(label, {label: stage}, {})
            yield from self._methods(config, bare)

    def _configuration(self, folder: str) -> RunConfig:
        config = RunConfig()
        config.model.path = folder
        config.model.dtype = str(DTYPE[self.device.type]).removeprefix("torch.")
        config.objective = {"name": "grpo"}
        config.learner.ranks, config.learner.zero_stage = 1, 2
        config.learner.optimizer = "sgd" if self.engine == "deepspeed" else "adamw"
        budget = self.shape.longest
        config.learner.tokens_per_micro_batch = config.learner.tokens_per_scoring_batch = budget
        return config

    def _bare(self, config: RunConfig) -> dict[str, Stage]:
        """The network with an ordinary head and cross-entropy, nothing of reinforcement."""
        policy = load_policy(config.model, config.learner, 1.0, self.device)
        portions = [
            self.batch.select(p.to(self.device))[0]
            for p in packings(self.batch.sequence_length.tolist(), self.shape.longest)
        ]

        def forward() -> None:
            with torch.no_grad():
                for micro in portions:
                    bare_loss(policy, micro)

        def backward() -> None:
            for micro in portions:
                bare_loss(policy, micro).backward()

        measured = self.clock.time({"bare forward": forward, "bare forward+backward": backward})
        for label, stage in measured.items():
            say(f"  {label}: {stage.median:.4g} s")
        del policy
        free()
        return measured

    def _methods(self, config: RunConfig, bare: dict[str, Stage]) -> Iterator[dict[str, Any]]:
        start_engine = {"deepspeed": rank_module.start_engine, "plain": PlainEngine}[self.engine]
        with mock.patch.object(rank_module, "start_engine", start_engine):
            learner = LearnerRank(config, self.device, pad_token_id=0)
        update: Stage | None = None
        delta: Tensor | None = None
        for label, credit, store in METHODS:
            if time.perf_counter() > self.until:
                say(f"  {label}: left out, the time is up")
                continue
            methods = {IN_USE: CREDITS.build(credit, "credit")}
            learner.credit = CreditStage(methods, learner.ranks, learner.device)
            learner.config = replace(config, learner=replace(config.learner, features=store))
            stages: dict[str, Callable[[], Any]] = {
                "load": lambda: learner.load(self.batch),
                "score": learner.score,
                "credit": lambda: learner.assign_credit(),  # noqa: B023
            }
            if update is None:  # the same passes whatever the coefficients: measured once
                stages["update"] = learner.update
            try:
                measured = self.clock.time(stages)
            except torch.OutOfMemoryError as error:
                say(f"  {label}: out of memory: {str(error).splitlines()[0]}")
                free()
                continue
            update = update or measured["update"]
            row = self._row(label, measured | {"update": update}, bare)
            if credit == {"name": "delta"}:  # the stores hold the same numbers
                delta = learner.coefficients if delta is None else delta
                row["off"] = float((learner.coefficients - delta).norm() / delta.norm())
            say(f"  {label}: score {row['score_s']:.4g} s, credit {row['credit_s']:.4g} s")
            yield row

    def _row(self, label: str, stages: dict[str, Stage], bare: dict[str, Stage]) -> dict[str, Any]:
        row: dict[str, Any] = {"shape": self.name, "method": label}
        tokens = self.batch.num_tokens
        flops = self.bare_flops if label.startswith("bare") else self.flops
        for name, stage in stages.items():
            key = {"bare forward": "score", "bare forward+backward": "update"}.get(name, name)
            row[f"{key}_s"] = stage.median
            row[f"{key}_spread_s"] = max(stage.seconds) - min(stage.seconds)
            row[f"{key}_gib"] = stage.peak_gib
        scored = not label.startswith(UNSCORED)
        for key, passes in (("score", 1.0), ("update", 3.0)):
            if f"{key}_s" in row and (key == "update" or scored):
                row[f"{key}_tokens_per_s"] = tokens / row[f"{key}_s"]
                row[f"{key}_mfu"] = passes * flops / row[f"{key}_s"] / self.peak_flops
        if bare:
            row["credit_share"] = row["credit_s"] / (row["score_s"] + row["update_s"])
            row["credit_over_forward"] = row["credit_s"] / bare["bare forward"].median
            row["update_over_bare"] = row["update_s"] / bare["bare forward+backward"].median
            if scored:
                row["score_over_bare"] = row["score_s"] / bare["bare forward"].median
        return row


UNSCORED = ("uniform", "random", "oar")  # the only mini-batch is not scored: its ratio is 1


def packings(lengths: list[int], budget: int) -> list[Tensor]:
    """Sequences in their order, of at most ``budget`` tokens together."""
    parts: list[list[int]] = [[]]
    for i, length in enumerate(lengths):
        if parts[-1] and length + sum(lengths[j] for j in parts[-1]) > budget:
            parts.append([])
        parts[-1].append(i)
    return [torch.tensor(part) for part in parts]


def bare_loss(policy: Policy, micro: TokenBatch) -> Tensor:
    """Cross-entropy of the response tokens, from logits that are formed whole."""
    hidden = policy.hidden(micro)[micro.predict_index]
    return F.cross_entropy(hidden @ policy.head.weight.T, micro.target)


def matmul_flops(device: torch.device) -> float:
    """The rate of a large matrix product on random numbers: what MFU is measured against."""
    n = 8192 if device.type == "cuda" else 512
    a, b = (torch.randn(n, n, device=device, dtype=DTYPE[device.type]) for _ in range(2))

    def products() -> None:
        for _ in range(20):
            a @ b  # noqa: B018

    return 20 * 2.0 * n**3 / Clock(device).time({"products": products})["products"].median


def free() -> None:
    """Give back what Python no longer refers to."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


COLUMNS = [
    ("shape", "shape", "{}", 6),
    ("method", "method", "{}", 22),
    ("score s", "score_s", "{:.4f}", 9),
    ("tok/s", "score_tokens_per_s", "{:.0f}", 8),
    ("MFU", "score_mfu", "{:.1%}", 7),
    ("/bare", "score_over_bare", "{:.2f}", 6),
    ("credit s", "credit_s", "{:.4f}", 9),
    ("share", "credit_share", "{:.2%}", 8),
    ("/fwd", "credit_over_forward", "{:.3f}", 7),
    ("off", "off", "{:.0e}", 7),
    ("update s", "update_s", "{:.4f}", 9),
    ("tok/s", "update_tokens_per_s", "{:.0f}", 8),
    ("MFU", "update_mfu", "{:.1%}", 7),
    ("/bare", "update_over_bare", "{:.2f}", 6),
    ("GiB score", "score_gib", "{:.1f}", 10),
    ("credit", "credit_gib", "{:.1f}", 7),
    ("update", "update_gib", "{:.1f}", 7),
]


def table(rows: list[dict[str, Any]]) -> str:
    """One line a row; what a row has no number for is left blank."""
    lines = ["".join(title.rjust(width) for title, _, _, width in COLUMNS)]
    for row in rows:
        cells = (form.format(row[key]) if key in row else "" for _, key, form, _ in COLUMNS)
        lines.append("".join(c.rjust(w) for c, (*_, w) in zip(cells, COLUMNS, strict=True)))
    return "\n".join(lines)


def say(text: str) -> None:
    """Progress, at once."""
    print(text, flush=True)


def main() -> None:
    """Measure, print the table last."""
    start = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", nargs="+", choices=SHAPES, default=["1.7b", "8b"])
    has_deepspeed = importlib.util.find_spec("deepspeed") is not None
    default = "deepspeed" if has_deepspeed else "plain"
    parser.add_argument("--engine", choices=["deepspeed", "plain"], default=default)
    parser.add_argument("--json", help="write the rows, with all numbers, to this file")
    # Of 440 the whole stays within 8 minutes.
    parser.add_argument("--seconds", type=float, default=440.0, help="no row begins after them")
    arguments = parser.parse_args()

    cuda = torch.cuda.is_available()
    if not cuda and arguments.size != ["tiny"]:
        parser.error("there is no CUDA device here; --size tiny runs without one")
    device = torch.device("cuda", 0) if cuda else torch.device("cpu")
    store = dist.HashStore()
    dist.init_process_group("nccl" if cuda else "gloo", store=store, rank=0, world_size=1)
    if arguments.engine == "deepspeed":
        import deepspeed

        os.environ["LOCAL_RANK"] = "0"
        deepspeed.init_distributed("nccl" if cuda else "gloo", verbose=False)
    say(f"device: {torch.cuda.get_device_name() if cuda else platform.machine()}")
    dtype = str(DTYPE[device.type]).removeprefix("torch.")
    say(f"torch {torch.__version__}, transformers {transformers.__version__}, {dtype}")
    say(
        {
            "deepspeed": "engine: DeepSpeed, ZeRO-2 on one rank. Memory: weights, fp32 master "
            "weights and gradients; SGD, so no optimizer state",
            "plain": "engine: a plain stand-in for DeepSpeed. Memory: weights, gradients and "
            "AdamW moments, all in that dtype; a real run adds fp32 master weights, in shards",
        }[arguments.engine]
    )
    say("gradient checkpointing on; update: measured once a shape, under the first method\n")

    rows: list[dict[str, Any]] = []
    for size in arguments.size:
        rows += Bench(size, device, arguments.engine, start + arguments.seconds).rows()
        free()
    if arguments.json:
        with open(arguments.json, "w") as f:
            json.dump({"device": str(device), "rows": rows}, f, indent=1)
    say(f"\n{time.perf_counter() - start:.0f} s in all. Medians of 3 to 7 runs after a warm-up.")
    say("share: credit over scoring + update; /bare: over the bare pass; /fwd: over bare forward;")
    say("off: coefficients against those of the device store; GiB: the most held in each stage.")
    say(table(rows))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
