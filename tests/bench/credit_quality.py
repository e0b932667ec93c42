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
from dataclasses import dataclass
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

OF_SLIPS = {  # of coefficients and of where the slip is
    "slip: AUC": auc,
    "slip: NDCG": lambda c, slip: ndcg(c, slip.astype(float)),
}
SECONDS = "seconds"
PICTURE = "credit.png"

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


@dataclass(frozen=True)
class Measured:
    """What the audits of a task say."""

    task: str
    responses: int  # incorrect ones with a slip
    seeds: int
    found: dict[str, Figures]

    @classmethod
    def read(cls, task: Path) -> Measured:
        lines = (task / "train.jsonl").read_text().splitlines()
        solutions = {row["id"]: row["solution"] for row in map(json.loads, lines)}
        tokenizer = AutoTokenizer.from_pretrained(task / "model")
        found: dict[str, Figures] = {
            name: defaultdict(list) for name in (*OF_SLIPS, *OF_SEEDS, SECONDS)
        }
        responses = 0
        audits = sorted(file.parent for file in task.glob("seed_*/result.json"))
        for audit in audits:
            for row, slip in slip_tokens(audit, solutions, tokenizer):
                responses += 1
                gain = np.arange(len(row["response_token_ids"])) == slip
                for name in (n for n in row if n.startswith(METHOD)):
                    c, method = np.array(row[name]), name.removeprefix(METHOD)
                    for figure, of in OF_SLIPS.items():
                        found[figure][method].append(of(c, gain))
            result = json.loads((audit / "result.json").read_text())
            for method, sides in result["methods"].items():
                for name, (side, figure) in OF_SEEDS.items():
                    if (value := sides[side][figure]["value"]) is not None:
                        found[name][method].append(value)
            for method, value in result["seconds"].items():
                found[SECONDS][method].append(value)
        return cls(task.name, responses, len(audits), found)

    @property
    def methods(self) -> list[str]:
        """The best at finding slips first."""
        areas = self.found["slip: AUC"]
        return sorted(areas, key=lambda method: -float(np.mean(areas[method])))

    def table(self) -> list[str]:
        lines = [
            f"`{self.task}`: {self.responses} incorrect responses, "
            f"{self.seeds} seed{'s' * (self.seeds > 1)}",
            "",
            f"| credit | {' | '.join(self.found)} |",
            "| --- " * (len(self.found) + 1) + "|",
        ]
        for method in self.methods:
            slips = [told(estimate(np.array(self.found[f][method]))) for f in OF_SLIPS]
            audits = [over_seeds(self.found[f].get(method, [])) for f in (*OF_SEEDS, SECONDS)]
            lines.append(f"| `{method}` | {' | '.join([*slips, *audits])} |")
        return [*lines, ""]


def draw(every: list[Measured], path: Path) -> None:
    """A row a figure, a column a task; the mean and the range over seeds, or the interval."""
    from matplotlib.figure import Figure

    shown = {"slip: AUC": 0.5, "correlation with Δ": 0.0, "gradient": None}
    methods = every[0].methods
    figure = Figure(figsize=(4 * len(every), 3 * len(shown)), layout="constrained")
    rows = figure.subplots(len(shown), len(every), sharex="row", sharey=True, squeeze=False)
    for axes_of, (name, chance) in zip(rows, shown.items(), strict=True):
        for axes, task in zip(axes_of, every, strict=True):
            for place, method in enumerate(methods):
                values = np.array(task.found[name][method])
                if not len(values):  # judged in another task alone
                    continue
                e = estimate(values)
                low, high = (e.low, e.high) if name in OF_SLIPS else (values.min(), values.max())
                reach = [[e.value - low], [high - e.value]]
                colour = "black" if method == "uniform" else "#0072b2"
                axes.errorbar(e.value, place, xerr=reach, fmt="o", color=colour, capsize=3)
            if chance is not None:
                axes.axvline(chance, color="grey", linewidth=1, linestyle=":")
            axes.set_title(f"{task.task}, {name}", fontsize="medium")
            axes.grid(axis="x", alpha=0.3)
    rows[0][0].set_yticks(range(len(methods)), methods)
    rows[0][0].invert_yaxis()
    figure.savefig(path, dpi=110)


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
        "other way. Seconds are those of the method itself on one rank of one thread, after the "
        "scoring pass, while another audit ran. Of these the range over seeds.",
        "",
    ]
    judged = [audits / name for name in TASKS if [*(audits / name).glob("seed_*/result.json")]]
    every = [Measured.read(task) for task in judged]
    for task in every:
        lines += task.table()
    lines += [f"![credit quality by task]({PICTURE})", ""]
    print("\n".join(lines))
    draw(every, folder / PICTURE)
    replace_section(folder / "RESULTS.md", HEADING, lines)


if __name__ == "__main__":
    main()
