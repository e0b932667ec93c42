"""The learner ranks as one, seen from the driver."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from rlvr.algorithm.metrics import summed, values
from rlvr.config import RunConfig
from rlvr.errors import LearnerError
from rlvr.learner.batching import rank_batches
from rlvr.learner.cost import Flops, StepCost
from rlvr.learner.skipped import UpdateInputs
from rlvr.learner.worker import LearnerWorker
from rlvr.remote import answers, lost
from rlvr.storage import FileSum
from rlvr.types import CreditInputs, Group, TokenCoefficients, samples_of

_DEATH_S = 5.0  # by then Ray knows that a process has died
_POLL_S = 0.2  # between questions whether a checkpoint is written


class LearnerGroup:
    """Calls all ranks together; the first error of any of them is raised at once.

    The other ranks may then be waiting for the failed one in a collective, so after an error
    the group is of no further use.
    """

    def __init__(
        self,
        config: RunConfig,
        pad_token_id: int,
        options: Sequence[dict[str, Any]],
        turn: asyncio.Lock | None = None,
    ) -> None:
        self._config = config = _with(config, ranks=len(options))
        self._machines: list[str] = []  # addresses of the ranks'
        self.turn = turn or asyncio.Lock()  # of whoever needs the ranks for some calls in a row
        self._flops: Flops
        self._cost: StepCost
        self._responses = 0  # in the rollout batch
        actor_class: Any = ray.remote(LearnerWorker)
        self.workers: list[ActorHandle] = [
            actor_class.options(**o).remote(config, rank, pad_token_id)
            for rank, o in enumerate(options)
        ]

    async def start(self) -> None:
        """Form the process group and load the model on every rank."""
        addresses = await self._all("address", starting=True)
        self._machines = [machine for machine, _ in addresses]
        [self._flops, *_] = await self._all("start", *addresses[0], starting=True)
        self._cost = StepCost(self._config, self._flops)

    async def rebuild(self, config: RunConfig) -> None:
        """Load the model anew on every rank, for another run of as many ranks."""
        self._config = config = _with(config, ranks=len(self.workers))
        self._cost = StepCost(config, self._flops)
        await self._all("rebuild", config, starting=True)

    async def gpus(self) -> list[str]:
        """The GPU of every rank, as its node counts them; none without GPUs."""
        return [gpu for own in await self._all("gpus", starting=True) for gpu in own]

    async def sleep(self) -> None:
        """Leave the GPUs to the engines, but for the weights; see ``learner.offload``."""
        await self._all("sleep")

    async def wake_up(self) -> None:
        """Have everything at hand again that the stages need."""
        await self._all("wake_up")

    async def load(
        self, groups: Sequence[Group], advantages: np.ndarray, inputs: CreditInputs | None = None
    ) -> None:
        """Share a rollout batch out over the ranks; ``advantages`` is [S], in sample order."""
        self._responses = len(samples_of(groups))
        batches = rank_batches(
            groups,
            advantages,
            ranks=len(self.workers) // self._sharing,
            groups_per_mini_batch=self._config.train.prompts_per_mini_batch or len(groups),
            cost=self._cost,
            inputs=inputs,
        )
        await self._each("stage", [("load", b) for b in batches for _ in range(self._sharing)])

    async def score(self) -> dict[str, float]:
        return values(summed(await self._stage("score")))

    async def assign_credit(
        self, wanted: bool = False, strength: float = 1.0
    ) -> tuple[dict[str, float], dict[str, list[np.ndarray | None]]]:
        """Assign token coefficients; if they are ``wanted``, returns those of every response.

        Those in use are drawn towards 1 as ``strength`` says (``algorithm/strength.py``).
        They are float32 [n] in sample order by the label of the method (``IN_USE``, and those of
        its shadows), None of what no rank has, as ``train.overlong_filter`` left it out.
        """
        reports, tokens = zip(*await self._stage("assign_credit", wanted, strength), strict=True)
        return values(summed(reports)), self._by_response(filter(None, tokens))

    async def try_credit(self) -> tuple[dict[str, float], dict[str, list[np.ndarray | None]]]:
        """What ``assign_credit`` would return, as if it had not been asked."""
        reports, tokens = zip(*await self._stage("try_credit"), strict=True)
        return values(summed(reports)), self._by_response(tokens)

    def _by_response(
        self, parts: Iterable[TokenCoefficients]
    ) -> dict[str, list[np.ndarray | None]]:
        coefficients: dict[str, list[np.ndarray | None]] = {}
        for own in parts:
            for label in own.coefficient:
                column = coefficients.setdefault(label, [None] * self._responses)
                for response, coefficient in own.by_response(label):
                    column[response] = coefficient
        return coefficients

    async def update(self) -> dict[str, float]:
        return values(summed(await self._stage("update")))

    async def update_inputs(self) -> list[UpdateInputs]:
        """What the last update was computed from, in parts."""
        return await self._stage("inputs")

    async def save_checkpoint(self, folder: str) -> None:
        """Have every rank copy its part to the host; they write it while training goes on."""
        async with self.turn:
            await self._all("save_checkpoint", folder)

    async def written_checkpoint(self) -> dict[str, FileSum]:
        """Wait for the files of ``save_checkpoint``; all of them by name."""
        limit = self._config.learner.step_timeout_s
        files: list[Any] = [None] * len(self.workers)
        try:
            async with asyncio.timeout(limit):
                while None in (files := await self._all("written_checkpoint")):
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            late = [rank for rank, own in enumerate(files) if own is None]
            raise LearnerError(
                f"learner ranks {late} have not written their part of a checkpoint within "
                f"{limit:g} s (learner.step_timeout_s)"
            ) from None
        return {name: known for own in files for name, known in own.items()}

    async def load_checkpoint(self, folder: str) -> None:
        await self._all("load_checkpoint", folder)

    async def save_model(self, folder: str) -> None:
        async with self.turn:
            await self._all("save_model", folder)

    async def died(self) -> bool:
        """Whether a rank's process or machine is gone.

        A rank that does not answer for a while is at work, if its machine answers.
        """
        asked: list[Any] = [worker.gpus.remote() for worker in self.workers]
        calls = [asyncio.ensure_future(call) for call in asked]
        answered, late = await asyncio.wait(
            calls, timeout=_DEATH_S, return_when=asyncio.FIRST_EXCEPTION
        )
        for call in late:
            call.cancel()
        if any(isinstance(call.exception(), RayActorError) for call in answered):
            return True
        silent = {m for m, call in zip(self._machines, calls, strict=False) if call in late}
        return any(await asyncio.gather(*map(lost, silent)))

    async def close(self) -> None:
        """End the ranks: in step where they still can, by force where not."""
        try:
            await self._all("close", within_s=5.0)
        except LearnerError:
            pass
        for worker in self.workers:
            ray.kill(worker)

    @property
    def _sharing(self) -> int:
        """Neighbouring ranks that have the same sequences."""
        return self._config.learner.sequence_parallel

    async def _stage(self, name: str, *arguments: Any) -> list[Any]:
        """The replies to a stage, without those of ranks that only repeat their neighbour's."""
        return (await self._all("stage", name, *arguments))[:: self._sharing]

    async def _all(self, method: str, *arguments: Any, **options: Any) -> list[Any]:
        return await self._each(method, [arguments] * len(self.workers), **options)

    async def _each(
        self,
        method: str,
        arguments: Sequence[Sequence[Any]],
        *,
        starting: bool = False,
        within_s: float | None = None,
    ) -> list[Any]:
        """Call ``method`` on every rank, each with its own arguments."""
        learner = self._config.learner
        limit, key = learner.step_timeout_s, "learner.step_timeout_s"
        if starting:
            limit, key = learner.init_timeout_s, "learner.init_timeout_s"
        calls = {
            f"learner rank {rank}, '{own[0] if method == 'stage' else method}',": getattr(
                worker, method
            ).remote(*own)
            for rank, (worker, own) in enumerate(zip(self.workers, arguments, strict=True))
        }
        return await answers(calls, within_s=within_s or limit, error=LearnerError, key=key)


def _with(config: RunConfig, ranks: int) -> RunConfig:
    """As many as there is room for, which may be fewer than the run was to have."""
    return replace(config, learner=replace(config.learner, ranks=ranks))
