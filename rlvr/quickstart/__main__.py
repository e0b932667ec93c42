"""``python -m rlvr.quickstart --output DIR [--seed N]``: a base model and a task to train it on.

Writes ``DIR/model/`` (an ordinary Hugging Face folder), ``DIR/train.jsonl``, ``DIR/eval.jsonl``
and ``DIR/warmup.json``; ``+recipe=quickstart`` trains on them. Nothing is downloaded.
"""

import argparse
import json
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from rlvr.errors import for_people
from rlvr.quickstart.arithmetic import additions, corpus, row
from rlvr.quickstart.model import build_model
from rlvr.quickstart.tokenizer import build_tokenizer
from rlvr.quickstart.warmup import warm_up

TRAIN_PROBLEMS = 4096
EVAL_PROBLEMS = 256


def quickstart(output: Path, seed: int = 0) -> dict[str, Any]:
    """Write the task and the base model into ``output``; return what ``warmup.json`` says.

    The same seed gives the same files, if torch runs one thread. No problem occurs twice, in
    the two data sets and in what the base model learns from.
    """
    rng = Random(seed)
    torch.manual_seed(seed)
    problems = additions(rng, seen=set())
    held_out = list(islice(problems, EVAL_PROBLEMS))
    training = list(islice(problems, TRAIN_PROBLEMS))

    output.mkdir(parents=True, exist_ok=True)
    for name, chosen in (("eval", held_out), ("train", training)):
        rows = [json.dumps(row(addition, f"{name}-{i}")) for i, addition in enumerate(chosen)]
        (output / f"{name}.jsonl").write_text("\n".join(rows) + "\n")

    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    result = warm_up(model, tokenizer, corpus(problems, rng), held_out)
    model.save_pretrained(output / "model")
    tokenizer.save_pretrained(output / "model")

    report = {
        **asdict(result.skill),
        "steps": result.steps,
        "seconds": round(result.seconds, 1),
        "parameters": model.num_parameters(),
        "seed": seed,
    }
    (output / "warmup.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m rlvr.quickstart", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    # The same numbers whatever the number of cores; and threads that share so small a model
    # would spend most of their time waiting for each other where others use the cores too.
    torch.set_num_threads(1)
    disable_progress_bar()  # of saving, which takes no time
    with for_people():
        report = quickstart(arguments.output, arguments.seed)
    print(
        f"{arguments.output / 'model'}: {report['parameters'] / 1e6:.2f} M parameters, "
        f"{report['steps']} warm-up steps in {report['seconds']:.0f} s; solves "
        f"{report['accuracy']:.1%} of {EVAL_PROBLEMS} held-out problems"
    )


if __name__ == "__main__":
    main()
