"""A plan in plain text."""

from collections.abc import Sequence

from rlvr.plan.hardware import GB
from rlvr.plan.layout import Layout
from rlvr.plan.memory import Parts
from rlvr.plan.plan import Plan
from rlvr.telemetry import figures


def report(plan: Plan, better: Sequence[Layout], title: str) -> str:
    """Memory by part, time by stage, and other layouts under ``title``."""
    config, memory = plan.config, plan.memory
    cluster = config.cluster
    on = f"{cluster.nodes}x{cluster.gpus_per_node} {plan.gpu.name}" if plan.gpu else "no GPU"
    adapters = plan.shape.adapters(config.learner.lora)
    trained = f", {adapters / 1e6:.1f} M in adapters are trained" if adapters else ""
    lines = [
        f"{config.model.path}: {plan.shape.parameters / 1e9:.2f} B parameters, "
        f"{config.model.dtype}{trained}",
        f"{on}, {cluster.placement}: {config.learner.ranks} learner ranks (ZeRO-"
        f"{config.learner.zero_stage}), {config.rollout.workers} engines of "
        f"{config.rollout.tensor_parallel} GPU",
        f"assumed: responses of {plan.work.response:,.0f} tokens on average, "
        f"{figures.percent(plan.work.active, 0)} of the groups active",
        "",
        "memory, GB",
        _parts("a learner rank", memory.learner),
        _parts("a GPU of an engine" if plan.gpu else "an engine", memory.engine),
        _parts("host of a node", memory.host),
        f"  a checkpoint: {memory.checkpoint / GB:.1f}",
        f"  an engine holds {memory.sequences:.1f} sequences of full length",
    ]
    for place, (used, there) in memory.places.items():
        verdict = "fits" if used <= there else "DOES NOT FIT"
        lines.append(f"  {place}: {used / GB:.0f} of {there / GB:.0f}: {verdict}")
    if plan.stages:
        lines += ["", "time of a step"]
        for name, stage in plan.stages.items():
            lines.append(f"  {name:<8} {figures.seconds(stage.seconds):>9}  {stage.bound}")
        lines.append(
            f"  together {figures.seconds(plan.step_s):>9}; {config.train.steps} steps take "
            f"{plan.hours:.1f} h without evaluations"
        )
    if better:
        lines += ["", title]
        for layout in better:
            told = layout.overrides() or "(as it is)"
            lines.append(f"  {figures.seconds(layout.plan.step_s):>9} a step: {told}")
    return "\n".join(lines)


def headline(plan: Plan) -> str:
    """One line for the start of a run and the head of a recipe."""
    memory, cluster = plan.memory, plan.config.cluster
    if not plan.gpu:
        size = sum(memory.learner.values())
        return f"planned: {size / GB:.2g} GB a learner rank"
    used = ", ".join(
        f"{place} {used / GB:.0f}" for place, (used, _) in memory.places.items() if place != "host"
    )
    line = f"planned on {cluster.nodes}x{cluster.gpus_per_node} {plan.gpu.name}: {used} of "
    line += f"{plan.gpu.memory / GB:.0f} GB, {'fits' if memory.fits else 'DOES NOT FIT'}"
    if plan.stages:
        line += f"; {float(f'{plan.step_s:.2g}'):.0f} s a step, {plan.hours:.0f} h"
    return line


def _parts(name: str, parts: Parts) -> str:
    told = ", ".join(f"{part} {size / GB:.1f}" for part, size in parts.items() if size >= 0.05 * GB)
    return f"  {name}: {sum(parts.values()) / GB:.1f}" + (f" ({told})" if told else "")
