"""A plan: what a configuration needs on given GPUs, and how long it takes there."""

from dataclasses import dataclass
from typing import Any

from rlvr.config import RunConfig
from rlvr.plan.hardware import GB, Gpu
from rlvr.plan.memory import Memory, memory
from rlvr.plan.shape import Shape, shape_of
from rlvr.plan.stages import Stage, stages, step_seconds
from rlvr.plan.workload import Assumptions, Workload, workload


@dataclass(frozen=True)
class Plan:
    """``stages`` is empty where the hardware is not known."""

    config: RunConfig  # resolved
    shape: Shape
    gpu: Gpu | None
    work: Workload
    memory: Memory
    stages: dict[str, Stage]

    @property
    def step_s(self) -> float:
        """Seconds of a step."""
        return step_seconds(self.config, self.stages)

    @property
    def hours(self) -> float:
        """Of all steps, without evaluations and checkpoints."""
        return self.step_s * self.config.train.steps / 3600

    def as_json(self) -> dict[str, Any]:
        """Everything that the plan says; sizes in GB, times in seconds."""
        memory = self.memory
        return {
            "gpu": self.gpu.name if self.gpu else None,
            "parameters": self.shape.parameters,
            "adapters": self.shape.adapters(self.config.learner.lora),
            "mean_response": self.work.response,
            "active": self.work.active,
            "fits": memory.fits,
            "memory_gb": {
                name: {part: size / GB for part, size in parts.items() if size}
                for name, parts in (
                    ("learner", memory.learner),
                    ("engine", memory.engine),
                    ("host", memory.host),
                )
            },
            "places_gb": {
                place: [used / GB, there / GB] for place, (used, there) in memory.places.items()
            },
            "checkpoint_gb": memory.checkpoint / GB,
            "engine_sequences": memory.sequences,
            "stages": {n: {"seconds": s.seconds, "bound": s.bound} for n, s in self.stages.items()},
            "step_s": self.step_s if self.stages else None,
            "hours": self.hours if self.stages else None,
        }


def plan_of(config: RunConfig, gpu: Gpu | None, work: Workload | None = None) -> Plan:
    """The plan of a resolved ``config``; ``gpu`` counts only on a cluster that has some.

    ``work`` is by default what the usual assumptions make of the configuration.
    """
    gpu = gpu if config.cluster.gpus else None
    shape = shape_of(config.model)
    work = work or workload(config, Assumptions())
    needed = memory(config, shape, gpu, work)
    timed = stages(config, shape, gpu, work, needed) if gpu and needed.sequences >= 1 else {}
    return Plan(config, shape, gpu, work, needed, timed)
