r"""``python -m rlvr.quickstart.sums --output DIR [--seed N]``: sums that need a calculator.

Three numbers of up to four digits are too many for a model of a million parameters to add in its
head, and it has a tool: it may write ``<438+2706+9061>``, is told ``12205``, and answers
``\boxed{12205}``. The base model has learned that, and has lately seen others guess: so it mostly
guesses. Writes ``DIR/model/``, ``DIR/train.jsonl`` and ``DIR/eval.jsonl``; ``+recipe=calculator``
trains on them. Nothing is downloaded.
"""

import argparse
import json
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

import torch
from transformers.utils.logging import disable_progress_bar

from rlvr.quickstart.model import build_model
from rlvr.quickstart.tokenizer import build_tokenizer
from rlvr.quickstart.warmup import BATCH, Lesson, train_on

TRAIN_PROBLEMS, EVAL_PROBLEMS = 4096, 256
_STEPS = 350
_EARLY = 0.75  # share of the base model's lessons that all ask the calculator; of the later ones
_CALLS = 0.2  # so many do
_SLIPS = 0.1  # share of what it is asked that is another sum
_NUMBERS = 3
_LONGEST = 96  # tokens of a conversation


def problems(rng: Random) -> Iterator[list[int]]:
    """Endless new ones."""
    seen: set[tuple[int, ...]] = set()
    while True:
        numbers = [rng.randint(100, 9999) for _ in range(_NUMBERS)]
        if tuple(numbers) not in seen:
            seen.add(tuple(numbers))
            yield numbers


def row(numbers: list[int], name: str) -> dict[str, str]:
    return {
        "id": name,
        "problem": "+".join(map(str, numbers)),
        "answer": str(sum(numbers)),
        "source": "quickstart/sums",
        "environment": "rlvr.quickstart.calculator",
    }


def lessons(endless: Iterator[list[int]], rng: Random, eos: str) -> Iterator[Lesson]:
    """What the base model learns from."""
    early = int(_EARLY * _STEPS) * BATCH
    for count, numbers in enumerate(endless):
        yield lesson(numbers, rng, eos, calls=count < early or rng.random() < _CALLS)


def lesson(numbers: list[int], rng: Random, eos: str, calls: bool) -> Lesson:
    """What somebody did with a problem: guess, or ask the calculator, perhaps with a slip."""
    problem = "+".join(map(str, numbers))
    if not calls:
        guess = max(sum(numbers) + rng.randint(-4000, 4000), 0)
        return [(f"{problem}\n", False), (f"\\boxed{{{guess}}}{eos}", True)]
    asked = list(numbers)
    if rng.random() < _SLIPS:
        asked[rng.randrange(_NUMBERS)] = rng.randint(100, 9999)
    call = "+".join(map(str, asked))
    return [
        (f"{problem}\n", False),
        (f"<{call}>{eos}", True),
        (f"\n{sum(asked)}\n", False),
        (f"\\boxed{{{sum(asked)}}}{eos}", True),
    ]


def sums(output: Path, seed: int = 0) -> None:
    """Write the task and the base model into ``output``."""
    rng = Random(seed)
    torch.manual_seed(seed)
    endless = problems(rng)
    output.mkdir(parents=True, exist_ok=True)
    for name, count in (("eval", EVAL_PROBLEMS), ("train", TRAIN_PROBLEMS)):
        rows = [json.dumps(row(p, f"{name}-{i}")) for i, p in enumerate(islice(endless, count))]
        (output / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, _LONGEST)
    train_on(model, tokenizer, lessons(endless, rng, str(tokenizer.eos_token)), _STEPS)
    model.save_pretrained(output / "model")
    tokenizer.save_pretrained(output / "model")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m rlvr.quickstart.sums", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # so small a model: threads would wait for each other
    disable_progress_bar()  # of saving, which takes no time
    began = time.perf_counter()
    sums(arguments.output, arguments.seed)
    print(f"{arguments.output / 'model'}: {_STEPS} steps in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
