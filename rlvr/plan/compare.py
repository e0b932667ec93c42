"""A run's plan beside the run."""

from typing import cast

from omegaconf import DictConfig, OmegaConf

from rlvr.config import RunConfig
from rlvr.hydra_config import run_config
from rlvr.loop.resolve import resolved
from rlvr.plan.hardware import GPUS, Gpu, gpu_here
from rlvr.plan.plan import plan_of
from rlvr.plan.text import headline
from rlvr.plan.workload import Assumptions, workload
from rlvr.telemetry import figures
from rlvr.telemetry.record import RunRecord
from rlvr.telemetry.run_folder import RunFolder


def announced(config: RunConfig) -> str:
    """The headline for a run of ``config`` (resolved) that begins here; a run needs no plan."""
    try:
        return headline(plan_of(config, gpu_here() or GPUS["h100"]))
    except Exception as error:  # a model of a kind that has never been planned
        return f"not planned: {error}"


def compared(record: RunRecord, gpu: Gpu) -> str | None:
    """Stage times as planned for ``gpu`` and as measured, in plain text."""
    if (stages := stages_beside(record, gpu)) is None:
        return None
    lines = [f"{record.name} on {gpu.name}: planned, measured, planned / measured"]
    for name, (planned, measured) in stages.items():
        told = f"{figures.seconds(planned):>9} {figures.seconds(measured):>9}"
        lines.append(f"  {name:<8} {told} {planned / measured:6.2f}")
    return "\n".join(lines)


def stages_beside(record: RunRecord, gpu: Gpu) -> dict[str, tuple[float, float]] | None:
    """Seconds of each stage as planned for ``gpu`` and as measured.

    None for a run without GPUs or steps. The plan is made with the lengths and the share of active
    groups that the run had.
    """
    file = RunFolder(record.name).config
    if not record.steps or not file.exists():
        return None
    saved = OmegaConf.merge(OmegaConf.structured(RunConfig), OmegaConf.load(file))
    config = run_config(cast(DictConfig, saved))
    if not config.cluster.gpus:
        return None
    config = resolved(config)
    assumed = Assumptions(
        response=_mean(record, "length/mean"), active=_mean(record, "groups/with_spread") or 1.0
    )
    plan = plan_of(config, gpu, workload(config, assumed))
    return {
        name: (stage.seconds, took)
        for name, stage in plan.stages.items()
        if (took := record.stages.get(name))
    }


def _mean(record: RunRecord, metric: str) -> float | None:
    _, values = record.series(metric)
    return sum(values) / len(values) if values else None
