r"""How ``math`` agrees with plain math-verify: python tests/bench/answers.py FOLDER [--examples 10]

Every different gold answer in the folder's .jsonl and .parquet files is judged by both, against
a response that holds it as models write it and against the next gold answer of its file. Prints a
table, and where the two disagree, examples.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet
from math_verify import LatexExtractionConfig, parse, verify

from rlvr.config import VerifierConfig
from rlvr.verify.math import Math, verify_math

LATEX = LatexExtractionConfig(boxed_match_priority=0)
HEAD = "| file | golds | different | pairs | both | neither | ours alone | theirs alone | seconds |"


@dataclass
class Count:
    """The pairs of one file."""

    golds: int = 0
    different: int = 0
    pairs: int = 0
    both: int = 0
    neither: int = 0
    more: list[tuple[str, str]] = field(default_factory=list)
    less: list[tuple[str, str]] = field(default_factory=list)
    ours_s: float = 0.0
    theirs_s: float = 0.0


def golds(path: Path) -> Iterator[str]:
    """The gold answers of a file; none if its rows have other fields."""
    if path.suffix == ".parquet":
        rows = pyarrow.parquet.read_table(path).to_pylist()
    else:
        rows = [json.loads(line) for line in path.read_text().split("\n") if line]
    for row in rows:
        answer = row.get("answer", (row.get("reward_model") or {}).get("ground_truth"))
        if answer is not None:
            yield str(answer).strip()


def written(gold: str) -> str:
    """An answer that means ``gold``, as models write it."""
    bare = gold.strip("$") if gold.count("$") == 2 else gold
    spaced = bare.replace(r"\frac", r"\dfrac").replace(r"\ddfrac", r"\dfrac").replace(",", ", ")
    return f" {spaced} " if "\\" in bare or set(bare) & set("=,<>") else f"x = {bare}"


def theirs(gold: str, response: str) -> bool:
    """What math-verify says."""
    expected = parse(gold if "$" in gold else f"${gold}$", [LATEX])
    return verify(expected, parse(response, [LATEX]))


def compare(path: Path) -> Count:
    """Judge the pairs of a file."""
    answers = list(golds(path))
    distinct = list(dict.fromkeys(answers))
    count = Count(len(answers), len(distinct))
    for i, gold in enumerate(distinct):
        for answer in (written(gold), distinct[i - 1].strip("$")):
            response = f"So the answer is $\\boxed{{{answer}}}$."
            start = time.perf_counter()
            ours = verify_math(gold, response).reward == 1
            middle = time.perf_counter()
            plain = theirs(gold, response)
            count.theirs_s += time.perf_counter() - middle
            count.ours_s += middle - start
            count.pairs += 1
            count.both += ours and plain
            count.neither += not ours and not plain
            if ours != plain:
                (count.more if ours else count.less).append((gold, answer.strip()))
    return count


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--examples", type=int, default=10)
    arguments = parser.parse_args()
    Math(VerifierConfig())
    counts = {}
    print(HEAD)
    print("| --- | " + "---: | " * 8)
    for path in sorted([*arguments.folder.rglob("*.jsonl"), *arguments.folder.rglob("*.parquet")]):
        c = counts[path] = compare(path)
        numbers = (c.golds, c.different, c.pairs, c.both, c.neither, len(c.more), len(c.less))
        seconds = f"{c.ours_s:.1f}, theirs {c.theirs_s:.1f}"
        print(f"| {path.stem} | {' | '.join(f'{n:,}' for n in numbers)} | {seconds} |", flush=True)
    for name, pairs in (
        ("Ours alone", [pair for c in counts.values() for pair in c.more]),
        ("math-verify alone", [pair for c in counts.values() for pair in c.less]),
    ):
        print(f"\n{name}:\n")
        for gold, answer in list(dict.fromkeys(pairs))[
            :: max(1, len(set(pairs)) // arguments.examples)
        ]:
            print(f"- `{gold}` and `{answer}`")


if __name__ == "__main__":
    main()
