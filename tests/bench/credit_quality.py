"""``python tests/bench/credit_quality.py AUDITS FOLDER``: does credit find the first slip?

Reads the audits of ``credit.sh``, prints a table for each task and puts them into
``FOLDER/RESULTS.md``. Slips are those of incorrect responses: the first token at which a response
leaves the one right way to write its solution.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pyarrow import parquet
from transformers import AutoTokenizer

from rlvr.evaluation.agreement import auc, ndcg
from rlvr.evaluation.intervals import Estimate, estimate

sys.path.append(str(Path(__file__).parent))
from sections import replace_section
from slips import TASKS, first_slip

HEADING = "## Is credit right?"
METHOD = "coefficient:"
OF_SEEDS = {  # side and figure of an audit
    "correlation with Δ": ("all", "correlation"),
    "decisive, correct: AUC": ("positive", "auc"),
    "decisive, incorrect: AUC": ("negative", "auc"),
    "gradient": ("all", "gradient_share"),
}

SECONDS = "seconds"

Figures = dict[str, list[float]]  # by method, of each response or seed


def slip_tokens(folder: Path, solutions: dict[str, str], tokenizer: object) -> Iterator[tuple]:
    """Of the incorrect responses of an audit that have a gradient: row, and the slip's token."""
    for row in parquet.read_table(folder / "responses.parquet").to_pylist():
        place = first_slip(solutions[row["prompt_id"]], row["response"])
        if row["advantage"] >= 0 or place is None:
            continue
        special = set(tokenizer.all_special_ids)
        ids = row["response_token_ids"]
        texts = [0 if i in special else len(tokenizer.convert_ids_to_tokens(i)) for i in ids]
        ends = np.cumsum(texts)
        after = np.flatnonzero((ends > place) | (ends - texts >= place))
        if len(after):  # else it was cut off before anything went wrong
            yield row, int(after[0])


def measured(task: Path) -> tuple[dict[str, Figures], int, int]:
    """By figure and method what every response, or every seed, says; responses and seeds."""
    lines = (task / "train.jsonl").read_text().splitlines()
    solutions = {row["id"]: row["solution"] for row in map(json.loads, lines)}
    tokenizer = AutoTokenizer.from_pretrained(task / "model")
    found: dict[str, Figures] = {
        name: defaultdict(list) for name in ("slip auc", "slip ndcg", *OF_SEEDS, SECONDS)
    }
    responses = 0
    audits = sorted(file.parent for file in task.glob("seed_*/result.json"))
    for audit in audits:
        for row, slip in slip_tokens(audit, solutions, tokenizer):
            responses += 1
            gain = np.arange(len(row["response_token_ids"])) == slip
            for name in (n for n in row if n.startswith(METHOD)):
                c = np.array(row[name])
                method = name.removeprefix(METHOD)
                found["slip auc"][method].append(auc(c, gain))
                found["slip ndcg"][method].append(ndcg(c, gain.astype(float)))
        result = json.loads((audit / "result.json").read_text())
        for method, sides in result["methods"].items():
            for name, (side, figure) in OF_SEEDS.items():
                if (value := sides[side][figure]["value"]) is not None:
                    found[name][method].append(value)
        for method, value in result["seconds"].items():
            found[SECONDS][method].append(value)
    return found, responses, len(audits)


def table(task: Path) -> list[str]:
    found, responses, seeds = measured(task)
    lines = [
        f"`{task.name}`: {responses} incorrect responses, {seeds} seed{'s' * (seeds > 1)}",
        "",
        f"| credit | slip: AUC | slip: NDCG | {' | '.join(OF_SEEDS)} | {SECONDS} |",
        "| --- " * (len(OF_SEEDS) + 4) + "|",
    ]
    order = sorted(found["slip auc"], key=lambda m: -float(np.mean(found["slip auc"][m])))
    for method in order:
        slips = [told(estimate(np.array(found[f][method]))) for f in ("slip auc", "slip ndcg")]
        audits = [over_seeds(found[f].get(method, [])) for f in (*OF_SEEDS, SECONDS)]
        lines.append(f"| `{method}` | {' | '.join([*slips, *audits])} |")
    return [*lines, ""]


def told(e: Estimate) -> str:
    return f"{e.value:.2f} [{e.low:.2f}, {e.high:.2f}]"


def over_seeds(values: list[float]) -> str:
    if not values:
        return "–"
    mean = f"{np.mean(values):.2f}"
    return mean if len(values) < 2 else f"{mean} ({min(values):.2f}–{max(values):.2f})"


def main() -> None:
    audits, folder = map(Path, sys.argv[1:])
    lines = [
        HEADING,
        "",
        "`bash tests/bench/credit.sh`: base models of 1.1 M parameters that slip now and then. "
        "A method is right about a slip if it gives that token of an incorrect response more "
        "than the others (AUC 0.5 is chance; 95 % intervals over responses). Δ is what a token "
        "did to the outcome, by 20,000 continuations a seed, 64 from a prefix: its correlation is "
        "with c_t A_i, and decisive tokens, whose 99 % interval leaves out 0, are found by c_t "
        "among the others of correct and of incorrect responses. Gradient: of Σ |c_t A_i| "
        "(1 − π_t), the share that pushes decisive tokens their way, less what pushes them the "
        "other way. "
        "Seconds are those of the method itself on one rank of one thread, after the scoring "
        "pass, while another audit ran. Of these the range over seeds.",
        "",
    ]
    for name in TASKS:
        if list((audits / name).glob("seed_*/result.json")):
            lines += table(audits / name)
    print("\n".join(lines))
    replace_section(folder / "RESULTS.md", HEADING, lines)


if __name__ == "__main__":
    main()
