"""Curves of one or more runs as a picture."""

from collections.abc import Sequence
from pathlib import Path

from rlvr.telemetry.record import RunRecord

_PANELS = (
    ("rollout/reward_mean", "reward"),
    ("length/mean", "response length, tokens"),
    ("update/entropy", "entropy, nats"),
    ("groups/with_spread", "share of groups with spread"),
    ("throughput/tokens_per_second", "response tokens per second"),
)


def plot(records: Sequence[RunRecord], path: Path) -> None:
    """Write the picture; the suffix of ``path`` says in which format, ValueError if it is none."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 7), layout="constrained")
    accuracy, *others = figure.subplots(2, 3).flat
    accuracy.set_title("accuracy in evaluation")
    for axes, (metric, title) in zip(others, _PANELS, strict=True):
        axes.set_title(title)
        for record in records:
            axes.plot(*record.series(metric), label=record.name, linewidth=1)
    for i, record in enumerate(records):
        metrics = dict.fromkeys(k for row in record.evaluations for k in row if "accuracy" in k)
        for metric, style in zip(metrics, ("-", "--", ":", "-."), strict=False):
            name = metric.removeprefix("evaluation/").removesuffix("/accuracy")
            label = f"{record.name} {name}"
            accuracy.plot(*record.series(metric), style, marker="o", color=f"C{i}", label=label)
    for axes in (accuracy, *others):
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
