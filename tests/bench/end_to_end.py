"""Seconds a step: here, in TRL, and what the two engines alone would take.

    bash tests/bench/end_to_end.sh

All sides have the same random Qwen3 of 29 M parameters in fp32, the same prompts, AdamW, one update
a step on 64 responses of at most 128 tokens in groups of 8, and all cores. TRL samples with its own
generation, since on a CPU it drives no vLLM. The limit is what nobody can beat without doing less
work: bare vLLM, then bare forward, backward and AdamW of the tokens that remain when every group
computes its prompt once, both on all cores at full use.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from repeats import Repeats, table

Stages = dict[str, list[float]]  # seconds of every measured step, by stage

SIDES = ["trl", "synchronous", "asynchronous", "vllm", "training"]
PATTERN = r"(?s).*[02468]\s*"  # a last word with an even number: half of all responses
LR = 1e-6
WARM_UP = 1  # steps that are not counted
_CORES = len(os.sched_getaffinity(0))
LIMIT_S = 900.0  # of a side


@dataclass(frozen=True)
class Setting:
    """What all sides have in common."""

    hidden: int = 512
    layers: int = 8
    vocabulary: int = 8192
    prompts: int = 8  # a step
    group_size: int = 8
    response: int = 128  # tokens
    shortest: int = 46  # prompt
    longest: int = 93

    @property
    def responses(self) -> int:
        """A step."""
        return self.prompts * self.group_size

    def prepare(self, folder: Path) -> None:
        """Model, tokenizer and prompts on disk."""
        from synthetic import save_qwen3
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        save_qwen3(folder / "model", self.hidden, self.layers, self.vocabulary)
        words = ["<pad>", "</s>"] + [f"w{i}" for i in range(2, self.vocabulary)]
        vocabulary = {word: i for i, word in enumerate(words)}
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>"
        ).save_pretrained(folder / "model")
        dice = random.Random(0)
        with (folder / "rows.jsonl").open("w") as file:
            for _ in range(256):
                length = dice.randint(self.shortest, self.longest)
                problem = " ".join(dice.choices(words[2:], k=length))
                file.write(json.dumps({"problem": problem, "answer": PATTERN}) + "\n")
        (folder / "setting.json").write_text(json.dumps(asdict(self)))


def problems(folder: Path) -> list[str]:
    return [json.loads(line)["problem"] for line in (folder / "rows.jsonl").open()]


# Each side: seconds of every step by stage


def trl(setting: Setting, folder: Path, steps: int) -> Stages:
    """TRL's trainer, in its own environment."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    stages: Stages = {"step": [], "rollout": []}

    class Timed(GRPOTrainer):
        def _generate(self, prompts: list[Any]) -> Any:
            started = time.perf_counter()
            result = super()._generate(prompts)
            stages["rollout"].append(time.perf_counter() - started)
            return result

    def reward(completions: list[str], **_: Any) -> list[float]:
        now = time.perf_counter()
        stages.setdefault("at", []).append(now)  # once a step, so a step lies between two
        return [float(re.fullmatch(PATTERN, text) is not None) for text in completions]

    rows = Dataset.from_list([{"prompt": p} for p in problems(folder)])
    arguments = GRPOConfig(
        output_dir=str(folder / "trl"),
        max_steps=WARM_UP + steps + 1,  # a step is measured from reward to reward
        per_device_train_batch_size=setting.group_size,
        gradient_accumulation_steps=setting.prompts,
        num_generations=setting.group_size,
        max_completion_length=setting.response,
        temperature=1.0,
        learning_rate=LR,
        lr_scheduler_type="constant",
        loss_type="grpo",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        model_init_kwargs={"dtype": "float32"},
    )
    Timed(str(folder / "model"), reward, args=arguments, train_dataset=rows).train()
    at = stages.pop("at")
    stages["step"] = [after - before for before, after in zip(at, at[1:], strict=False)]
    stages["rollout"] = stages["rollout"][1:]  # the one that ends at the second reward, and so on
    both = zip(stages["step"], stages["rollout"], strict=False)
    stages["update"] = [whole - rollout for whole, rollout in both]
    return {stage: seconds[WARM_UP:][:steps] for stage, seconds in stages.items()}


def ours(setting: Setting, folder: Path, steps: int, staleness: int, more: list[str]) -> Stages:
    """``python -m rlvr.train``, as anybody calls it."""
    from rlvr.telemetry.record import RunRecord

    run = folder / f"staleness_{staleness}"
    overrides = [
        f"model.path={folder}/model",
        "model.dtype=float32",
        f"data.train=[{folder}/rows.jsonl]",
        "data.template=none",
        "data.verifier=regex",
        f"data.max_prompt_tokens={setting.longest}",
        f"rollout.group_size={setting.group_size}",
        f"rollout.workers={_CORES}",  # one thread each: threads of one process wait for each other
        f"learner.ranks={_CORES}",
        f"rollout.max_response_tokens={setting.response}",
        f"train.prompts_per_step={setting.prompts}",
        f"train.steps={WARM_UP + steps + staleness}",  # the last has no rollout beside it
        f"train.max_staleness={staleness}",
        f"train.output_dir={run}",
        f"learner.lr={LR}",
        "learner.gradient_checkpointing=false",
        "telemetry.wandb=disabled",
        "telemetry.log_responses=false",
        "telemetry.progress=false",
    ]
    subprocess.run([sys.executable, "-m", "rlvr.train", *overrides, *more], check=True)
    rows = RunRecord.read(run).steps[WARM_UP:][:steps]
    names = sorted({key for row in rows for key in row if re.fullmatch(r"time/\w+_s", key)})
    return {key[5:-2]: [float(row.get(key, 0.0)) for row in rows] for key in names}


def vllm(setting: Setting, folder: Path, steps: int) -> Stages:
    """vLLM alone, all requests at once."""
    from transformers import AutoTokenizer
    from vllm import LLM, SamplingParams

    engine = LLM(
        str(folder / "model"),
        dtype="float32",
        enforce_eager=True,
        max_model_len=setting.longest + setting.response,
        max_num_seqs=setting.responses,
    )
    sampling = SamplingParams(
        max_tokens=setting.response, logprobs=0, ignore_eos=True, detokenize=False
    )
    ids = AutoTokenizer.from_pretrained(folder / "model")(problems(folder))["input_ids"]
    prompts = ({"prompt_token_ids": row} for row in ids)

    def batch() -> None:
        own = [next(prompts) for _ in range(setting.prompts)]
        requests = [prompt for prompt in own for _ in range(setting.group_size)]
        engine.generate(requests, sampling, use_tqdm=False)

    return {"rollout": list(Repeats.seconds(batch, steps, WARM_UP).values)}


def training(setting: Setting, folder: Path, steps: int) -> Stages:
    """Forward, backward and AdamW of as many tokens, laid out evenly; no reinforcement."""
    import torch
    import torch.nn.functional as F
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, fused=True)
    prompt = (setting.shortest + setting.longest) // 2
    length = setting.response + -(-prompt // setting.group_size)  # a prompt shared by its group
    rows = torch.randint(2, setting.vocabulary, (setting.responses, length))

    def step() -> None:
        for micro in rows.split(setting.group_size):
            logits = model(micro, logits_to_keep=setting.response + 1).logits[:, :-1]
            target = micro[:, -setting.response :]
            F.cross_entropy(logits.flatten(0, 1), target.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return {"update": list(Repeats.seconds(step, steps, WARM_UP).values)}


# The whole


def measured(given: argparse.Namespace, folder: Path) -> Iterator[tuple[str, dict[str, Repeats]]]:
    """Every side in a process of its own."""
    threads = str(len(os.sched_getaffinity(0)))
    alone = {
        "OMP_NUM_THREADS": threads,
        "CUDA_VISIBLE_DEVICES": "",
        "TORCH_COMPILE_DISABLE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "TQDM_DISABLE": "1",
    }
    for side in given.sides:
        print(f"== {side}", flush=True)
        python = given.trl_python if side == "trl" else sys.executable
        command = [python, __file__, "--side", side, "--folder", str(folder)]
        bare = os.environ | (alone if side in ("trl", "vllm", "training") else {})
        subprocess.run(
            [*command, "--steps", str(given.steps), *given.overrides],
            check=True,
            env=bare,
            timeout=LIMIT_S,
        )
        stages = json.loads((folder / f"{side}.json").read_text())
        yield side, {stage: Repeats(seconds) for stage, seconds in stages.items()}


def report(found: dict[str, dict[str, Repeats]]) -> str:
    """Seconds of a step and of its stages, then how they compare."""
    rows = [
        [side, f"{stages['step']:.2f}" if "step" in stages else "", broken_down(stages)]
        for side, stages in found.items()
    ]
    lines = [table(["side", "seconds a step", "its stages"], rows), ""]
    limit = None
    if {"vllm", "training"} <= found.keys():
        limit = found["vllm"]["rollout"].median + found["training"]["update"].median
        lines.append(f"The limit: {limit:.2f} s.")
    for side in ("synchronous", "asynchronous"):
        if side not in found:
            continue
        own = found[side]["step"].median
        against = [f"limit ÷ measured {limit / own:.2f}"] if limit else []
        if "trl" in found:
            against.insert(0, f"{found['trl']['step'].median / own:.2f} times as fast as TRL")
        lines.append(f"{side}: {', '.join(against) or f'{own:.2f} s'}.")
    return "\n".join(lines)


def broken_down(stages: dict[str, Repeats]) -> str:
    return ", ".join(f"{stage} {s:.2f}" for stage, s in stages.items() if stage != "step")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5, help="that are measured")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--trl-python", help="of an environment that has TRL")
    parser.add_argument("--tiny", action="store_true", help="seconds, and no figure to speak of")
    parser.add_argument("--folder", type=Path, default=Path("outputs/end_to_end"))
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", help="of python -m rlvr.train, after --")
    given = parser.parse_args()
    folder = given.folder.resolve()
    if given.side:
        setting = Setting(**json.loads((folder / "setting.json").read_text()))
        sides = {"trl": trl, "vllm": vllm, "training": training}
        if given.side in sides:
            stages = sides[given.side](setting, folder, given.steps)
        else:
            staleness = int(given.side == "asynchronous")
            stages = ours(setting, folder, given.steps, staleness, given.overrides)
        (folder / f"{given.side}.json").write_text(json.dumps(stages))
        return
    if not given.trl_python and "trl" in given.sides:
        parser.error("--trl-python is missing; call tests/bench/end_to_end.sh, or leave TRL out")
    folder = folder / f"{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    folder.mkdir(parents=True)
    setting = Setting(128, 2, 512, 4, 4, 16, 6, 12) if given.tiny else Setting()
    setting.prepare(folder)
    started = time.perf_counter()
    found = dict(measured(given, folder))
    print(
        f"\n{time.perf_counter() - started:.0f} s in all; medians of {given.steps} steps, ", end=""
    )
    print(f"least and most in brackets.\n\n{report(found)}", flush=True)


if __name__ == "__main__":
    main()
