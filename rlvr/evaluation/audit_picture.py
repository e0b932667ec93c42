"""The result of an audit as a picture."""

from collections.abc import Mapping
from pathlib import Path

from rlvr.evaluation.agreement import Agreement
from rlvr.telemetry.run_folder import replacing, writing

_PANELS = {
    "correlation": ("correlation with effects", 0.0),
    "auc": ("AUC of decisive tokens", 0.5),
    "ndcg": ("NDCG of decisive tokens", None),
    "gradient_share": ("share of the gradient", None),
}
_COLOURS = {"positive": "#0072b2", "negative": "#d55e00"}  # told apart by the colour-blind too


def draw(result: Mapping[str, Mapping[str, Agreement]], path: Path) -> None:
    """Write a PNG: a panel a figure, a row a method, a mark for either side with its interval."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 2 + 0.5 * len(result)), layout="constrained")
    panels = figure.subplots(1, len(_PANELS), sharey=True)
    for axes, (name, (title, chance)) in zip(panels, _PANELS.items(), strict=True):
        axes.set_title(title)
        for shift, (side, colour) in zip((-0.12, 0.12), _COLOURS.items(), strict=True):
            found = [by_side[side][name] for by_side in result.values()]
            reach = [[e.value - e.low for e in found], [e.high - e.value for e in found]]
            places = [row + shift for row in range(len(found))]
            values = [e.value for e in found]
            label = f"{side} advantage"
            axes.errorbar(values, places, xerr=reach, fmt="o", color=colour, label=label, capsize=3)
        if chance is not None:
            axes.axvline(chance, color="grey", linewidth=1, linestyle=":")
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(result)), list(result))
    panels[0].set_ylim(len(result) - 0.5, -0.5)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    with writing(path), replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
