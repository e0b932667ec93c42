"""Says where a step hangs: the stacks of all workers, when a stage is late."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

import ray
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rlvr.config import TelemetryConfig
from rlvr.telemetry import stacks
from rlvr.telemetry.run_folder import RunFolder, write_text
from rlvr.telemetry.timing import Stopwatch

_POLL_S = 1.0
_ASK_S = 60.0  # for a machine to answer for its workers
_TIMES, _LEAST_S, _FIRST_S = 5.0, 300.0, 1800.0  # its median; at least; before there is one

Workers = Mapping[str, ActorHandle]


class Watchdog:
    """A thread beside the training loop; it ends nothing, and nothing waits for it.

    It has a thread because the loop may be what hangs. Workers are asked by a signal, which
    reaches them while they are in a collective or in C++.
    """

    def __init__(
        self,
        config: TelemetryConfig,
        watch: Stopwatch,
        folder: RunFolder,
        workers: Callable[[], Workers],
    ) -> None:
        self._limit = config.late_stage_s
        self._watch = watch
        self._folder = folder
        self._workers = workers
        self._listening: dict[ActorHandle, Any] = {}  # what each will reply, once it does
        self._told: tuple[int, str] | None = None  # the lap and stage that was told last
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        if self._limit != 0:
            self._meet()
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        if self._thread.is_alive():
            self._thread.join(_POLL_S)

    def _run(self) -> None:
        while not self._end.wait(_POLL_S):
            try:
                self._meet()
                self._look()
            except Exception as error:  # it must not be what ends a run
                print(f"watchdog: {error!r}", flush=True)

    def _meet(self) -> None:
        """Have every worker listen, also those that have come in place of others."""
        known = self._listening
        self._listening = {
            actor: known.get(actor) or actor.__ray_call__.remote(_listen)
            for actor in self._workers().values()
        }

    def _look(self) -> None:
        for stage, seconds, median in self._watch.running():
            limit = self._limit or (_FIRST_S if median is None else max(_TIMES * median, _LEAST_S))
            if seconds > limit and self._told != (self._watch.laps, stage):
                self._told = self._watch.laps, stage
                self._tell(stage, seconds, median)

    def _tell(self, stage: str, seconds: float, median: float | None) -> None:
        told = self._ask()
        path = self._folder.stacks(stage)
        texts = {"driver": stacks.own(), **told}
        write_text(path, "\n".join(f"== {name}\n{text}\n" for name, text in texts.items()))
        usual = "" if median is None else f", usually {median:.1f} s"
        print(
            f"'{stage}' is late: {seconds:.0f} s so far{usual}. Look first at {late(told)}; the "
            f"stacks of all workers: {path}",
            flush=True,
        )

    def _ask(self) -> dict[str, str]:
        """Of every worker what it does, or why it cannot be told."""
        workers = self._workers()
        told, asked = dict.fromkeys(workers, "State: unknown, it has not begun to listen"), {}
        for name, actor in workers.items():
            try:
                node, listener = ray.get(self._listening[actor], timeout=0.1)
            except (KeyError, ray.exceptions.GetTimeoutError):
                continue
            except ray.exceptions.RayError:
                told[name] = stacks.GONE
                continue
            there = NodeAffinitySchedulingStrategy(node, soft=False)
            asked[name] = _ask_there.options(scheduling_strategy=there).remote(listener)
        answered = time.monotonic() + _ASK_S
        for name, reference in asked.items():
            try:
                told[name] = ray.get(reference, timeout=max(answered - time.monotonic(), 0.1))
            except ray.exceptions.RayError as error:
                told[name] = f"State: unknown, its machine does not answer ({type(error).__name__})"
        return told


def late(told: Mapping[str, str]) -> str:
    """Who keeps the others waiting, by what they told.

    These are workers that are stopped or gone, else those that work while others of their kind
    wait in a collective, else perhaps anyone.
    """
    broken = [name for name, text in told.items() if text.startswith(_BROKEN)]
    waiting = [name for name, text in told.items() if _COLLECTIVE in text]
    kinds = {name.rsplit(" ", 1)[0] for name in waiting}
    working = [n for n in told if n not in waiting and n.rsplit(" ", 1)[0] in kinds]
    return ", ".join(broken or working or told)


_BROKEN = ("State: T", "State: t", "State: Z", "State: gone", "State: unknown")
_COLLECTIVE = "distributed_c10d.py"


def _listen(_: Any) -> tuple[str, stacks.Listener]:
    return ray.get_runtime_context().get_node_id(), stacks.Listener.begin()


@ray.remote(num_cpus=0, max_retries=0)
def _ask_there(listener: stacks.Listener) -> str:
    return listener.ask()
