"""Responses with their credit, and the values that continuations gave to their beginnings."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from rlvr.errors import DataError
from rlvr.evaluation.audit_plan import Audited, planned
from rlvr.evaluation.effects import Effects, difference_interval
from rlvr.telemetry.responses import response_table
from rlvr.types import Group, Outcome, Prompt, Response, Sample, Verdict, samples_of

Values = Mapping[tuple[int, int], np.ndarray]  # of (response, tokens of it): rewards, float64 [n]

_METHOD = "coefficient:"
_LOGP = "logp_rollout"  # of every token
_SECONDS = b"seconds"  # in the metadata


@dataclass(frozen=True)
class AuditBatch:
    """A rollout batch under one policy version; responses are numbered in sample order."""

    groups: Sequence[Group]
    advantages: np.ndarray  # float64 [S]
    coefficients: Mapping[str, Sequence[np.ndarray | None]]  # by method, c_t of each response
    seconds: Mapping[str, float]  # that each method took, once the policy had scored the batch

    @cached_property
    def samples(self) -> list[Sample]:
        return samples_of(self.groups)

    @cached_property
    def prompts(self) -> list[Prompt]:
        """Of each response."""
        return [group.prompt for group in self.groups for _ in group.samples]

    @cached_property
    def doubt(self) -> list[np.ndarray]:
        """1 − π_t of every token of each response, float64."""
        return [-np.expm1(s.response.logp_rollout.astype(float)) for s in self.samples]

    def planned(self, most: int, budget: int) -> list[Audited]:
        """See ``audit_plan.planned``; responses that no method has credit for are left out."""
        credited = zip(*self.coefficients.values(), strict=True)
        doubt = [
            own if all(c is not None for c in found) else np.zeros(0)
            for own, found in zip(self.doubt, credited, strict=True)
        ]
        group = [g for g, own in enumerate(self.groups) for _ in own.samples]
        return planned(doubt, self.advantages, group, most, budget)

    def effects(self, audited: Sequence[Audited], values: Values) -> Effects:
        """Of all positions, from the ``values`` of what lies before and after them.

        A whole response has its own reward. DataError if nothing was audited.
        """
        if not audited:
            raise DataError(
                "nothing can be audited: no response has an advantage (all rewards of every group "
                "are equal), or audit.continuations is less than one of them needs"
            )
        n = len(next(iter(values.values()))) if values else 1
        before, after = [], []
        for own in audited:
            sample = self.samples[own.response]
            whole = len(sample.response.token_ids)
            known = {
                k: np.full(n, sample.verdict.reward) if k == whole else values[own.response, k]
                for k in own.lengths
            }
            before += [known[length] for length in own.before.tolist()]
            after += [known[length] for length in own.after.tolist()]
        first, second = np.stack(before), np.stack(after)
        bottom, top = min(first.min(), second.min()), max(first.max(), second.max())
        response = np.concatenate([np.full(len(a.positions), a.response) for a in audited])
        at = [(a.response, a.positions) for a in audited]
        return Effects(
            response,
            np.concatenate([a.positions for a in audited]),
            self.advantages[response],
            np.concatenate([self.doubt[i][t] for i, t in at]),
            *difference_interval(first, second, bottom, top),
            reliability(first, second),
            {
                name: np.concatenate([np.asarray(c[i], np.float64)[t] for i, t in at])
                for name, c in self.coefficients.items()
            },
        )

    def table(self) -> pa.Table:
        """A row for each response."""
        table = response_table(0, self.groups, self.advantages)
        logp = pa.array([s.response.logp_rollout for s in self.samples], pa.list_(pa.float32()))
        table = table.append_column(_LOGP, logp)
        for name, own in self.coefficients.items():
            column = pa.array(own, pa.list_(pa.float32()), from_pandas=False)
            table = table.append_column(_METHOD + name, column)
        return table.replace_schema_metadata({_SECONDS: json.dumps(dict(self.seconds))})

    @classmethod
    def read(cls, table: pa.Table, prompts: Mapping[str, Prompt]) -> "AuditBatch":
        """From its table; ``prompts`` by their ids."""
        methods = [c.removeprefix(_METHOD) for c in table.column_names if c.startswith(_METHOD)]
        coefficients: dict[str, list[np.ndarray | None]] = {name: [] for name in methods}
        groups: list[tuple[Prompt, list[Sample]]] = []
        for row in table.to_pylist():
            if row["group"] == len(groups):
                groups.append((prompts[row["prompt_id"]], []))
            ids = np.array(row["response_token_ids"], np.int32)
            logp, version = np.array(row[_LOGP], np.float32), np.zeros(len(ids), np.int32)
            response = Response(ids, logp, version, row["finish_reason"])
            verdict = Verdict(row["reward"], Outcome(row["outcome"]), row["detail"])
            groups[-1][1].append(Sample(response, row["response"], verdict))
            for name in methods:
                own = row[_METHOD + name]
                coefficients[name].append(None if own is None else np.array(own, np.float32))
        found = [Group(prompt, samples) for prompt, samples in groups]
        advantages = np.array(table["advantage"].to_pylist())
        seconds = json.loads((table.schema.metadata or {}).get(_SECONDS, "{}"))
        return cls(found, advantages, coefficients, seconds)


def reliability(before: np.ndarray, after: np.ndarray) -> float:
    """How well Δ by so many continuations would correlate with Δ by as many others, in ranks.

    From two halves of them, by Spearman and Brown's formula. No method's correlation can be
    expected above its square root. NaN of one continuation.
    """
    if before.shape[1] < 2 or len(before) < 2:
        return np.nan
    from scipy.stats import spearmanr

    halves = [(after[:, i::2].mean(1) - before[:, i::2].mean(1)) for i in (0, 1)]
    with np.errstate(invalid="ignore"):
        r = 0.0 if any(np.ptp(h) == 0 for h in halves) else float(spearmanr(*halves).statistic)
    return 2 * r / (1 + r) if r > -1 else np.nan
