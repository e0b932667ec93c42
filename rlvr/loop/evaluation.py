"""Accuracy on held-out prompts, and how right credit is, with the engines that training uses."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rlvr.algorithm.strength import AUDITED
from rlvr.config import RunConfig
from rlvr.errors import DataError
from rlvr.evaluation.agreement import agreements
from rlvr.evaluation.agreement import figures as audit_figures
from rlvr.evaluation.answers import Answers
from rlvr.evaluation.audit_folder import AuditFolder
from rlvr.evaluation.estimators import figures
from rlvr.loop.audit import Audit
from rlvr.loop.groups import GroupSource
from rlvr.rollout.request import Sampling
from rlvr.telemetry.run_log import Telemetry
from rlvr.types import Prompt

_AUDIT = "audit"  # beside the names of measures
SEED_STEP = -1  # evaluation draws from its own seeds, the same ones each time


class Evaluation:
    """The measures of ``data.eval``; their results go to the telemetry."""

    def __init__(
        self,
        config: RunConfig,
        prompts: Sequence[Prompt],
        groups: GroupSource,
        telemetry: Telemetry,
        stop_token_ids: Sequence[int],
        audit: Audit,
    ) -> None:
        self._config = config.evaluation
        self._prompts = prompts[: config.evaluation.limit]
        self._groups = groups
        self._telemetry = telemetry
        self._measures = measures(config, stop_token_ids)
        self._audit = audit

    async def at_start(self, step: int) -> dict[str, float]:
        """Before the first step, if asked for; after a checkpoint's, what was not come to.

        Returns what the strength of credit may depend on, by the newest audit on record.
        """
        if self._config.at_start if step == 0 else self._is_due(step):
            await self.run(step)
        return self._measured()

    async def if_due(self, step: int) -> dict[str, float]:
        """In between; returns what is new of the same."""
        if not self._is_due(step):
            return {}
        await self.run(step)
        return self._measured()

    async def at_end(self, step: int) -> None:
        """After the last step, unless that one was due anyway."""
        if self._config.at_end and not self._is_due(step):
            await self.run(step)

    def _is_due(self, step: int) -> bool:
        return self._config.every > 0 and step % self._config.every == 0

    async def run(self, step: int) -> None:
        """Evaluate now, as configured: greedy decoding, k samples a prompt, an audit.

        What is on record of this step is not done again.
        """
        done = self._telemetry.evaluated(step)
        for measure in self._measures if self._prompts else ():
            if measure.name in done:
                continue
            groups = await self._groups.sample(
                self._prompts, measure.samples, measure.sampling, seed_step=SEED_STEP
            )
            results = _results(Answers.of(groups))
            await self._telemetry.evaluation(step, measure.name, results, groups)
        if self._config.audit and _AUDIT not in done:
            await self._audit_credit(step)

    def _measured(self) -> dict[str, float]:
        name = f"evaluation/{_AUDIT}/{self._audit.in_use}/correlation_low"
        values = self._telemetry.series(name) if self._config.audit else []
        return {AUDITED: values[-1]} if values else {}

    async def _audit_credit(self, step: int) -> None:
        try:
            batch, effects = await self._audit.effects(step, self._config.audit)
        except DataError as nothing:  # and of another policy there may be something
            print(f"audit after step {step}: {nothing}", flush=True)
            return
        folder, result = AuditFolder(self._telemetry.audit(step)), agreements(effects)
        folder.finish(f"Credit after step {step}", batch, effects, result)
        told = {"decisive": float(effects.decisive.mean()), **audit_figures(result)}
        await self._telemetry.evaluation(step, _AUDIT, told)


@dataclass(frozen=True)
class Measure:
    """So many samples of every question: ``greedy`` one, ``avg_at_k`` k."""

    name: str
    samples: int
    sampling: Sampling


def measures(config: RunConfig, stop_token_ids: Sequence[int]) -> list[Measure]:
    """What ``evaluation`` asks for."""
    own = config.evaluation
    sampling = Sampling(
        temperature=own.temperature,
        top_p=own.top_p,
        top_k=0,
        max_tokens=own.max_response_tokens or config.rollout.max_response_tokens,
        stop_token_ids=tuple(stop_token_ids),
    )
    greedy = Measure("greedy", 1, replace(sampling, temperature=0.0, top_p=1.0))
    drawn = Measure(f"avg_at_{own.samples}", own.samples, sampling)
    return [m for m, asked in ((greedy, own.greedy), (drawn, own.samples > 0)) if asked]


def _results(answers: Answers) -> dict[str, float]:
    """Accuracy overall and by source, and of several samples pass@k and maj@k of all of them."""
    found = figures(answers)
    results = {"accuracy": float(found["accuracy"].mean())}
    for source, own in answers.by_source().items():
        results[f"{source}/accuracy"] = float(own.correct.mean())
    if (k := answers.samples) > 1:
        names = [name for name in (f"pass_at_{k}", f"maj_at_{k}") if name in found]
        results |= {name: float(found[name].mean()) for name in names}
    return results
