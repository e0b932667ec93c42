"""Two evaluations against each other, question by question."""

from pathlib import Path

from rlvr.errors import RunFolderError
from rlvr.evaluation.answers import Answers
from rlvr.evaluation.estimators import sizes
from rlvr.evaluation.folder import EvaluationFolder
from rlvr.evaluation.intervals import Difference, difference


def compared(first: Path, second: Path) -> str:
    """A Markdown table of the second minus the first, for every measure that both have taken."""
    before, after = _measures(first), _measures(second)
    common = [name for name in before if name in after]
    if not common:
        raise RunFolderError(
            f"{first} has {', '.join(before)}, {second} has {', '.join(after)}: nothing in common."
        )
    lines = [f"# {second} against {first}", "", "| | questions | | difference | |"]
    lines.append("|---|---|---|---|---|")
    for measure in common:
        a, b = before[measure], after[measure]
        theirs, ours = a.by_source(), b.by_source()
        pairs = {s: (theirs[s], ours[s]) for s in theirs if s in ours} | {"all": (a, b)}
        for source, pair in pairs.items():
            lines += _rows(source, measure, pair)
    lines += [
        "",
        "Points of percent, with the 95 % interval of a bootstrap that draws a question for both; "
        "* leaves out 0. p is of a two-sided Mann–Whitney test of the n accuracies that the n "
        "samples of every question make.",
    ]
    return "\n".join(lines)


def _measures(folder: Path) -> dict[str, Answers]:
    found = EvaluationFolder(folder).measures()
    if not found:
        raise RunFolderError(f"{folder} holds no evaluation (no responses/*/part_*.parquet).")
    return found


def _rows(source: str, measure: str, pair: tuple[Answers, Answers]) -> list[str]:
    try:
        found: Difference = difference(*pair)
    except ValueError as error:
        return [f"| {source} | 0 | {measure} | {error} | |"]
    n = min(answers.samples for answers in pair)
    shown = ["accuracy", *(f"{kind}_at_{k}" for kind in ("pass", "maj") for k in sizes(n))]
    rows = []
    for name in (name for name in shown if name in found.figures):
        e = found.figures[name]
        label = (measure if name == "accuracy" else name).replace("_at_", "@")
        told = f"{100 * e.value:+.1f} [{100 * e.low:+.1f}, {100 * e.high:+.1f}]"
        p = f"p = {found.suites_p:.2g}" if name == "accuracy" and found.suites_p is not None else ""
        rows.append(f"| {source} | {found.questions} | {label} | {told}{'*' * e.differs} | {p} |")
    return rows
