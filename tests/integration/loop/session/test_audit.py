"""Audits on real engines: by themselves, and between the steps of a run that they leave alone."""

from __future__ import annotations

import asyncio

import pyarrow.parquet as pq
import torch

from rlvr.evaluation.audit_folder import AuditFolder
from rlvr.loop.audit_session import audit

BUDGET = 400
OWN = [  # two steps with DelTA, whose gamma is state, and a shadow
    *("train.steps=2", "train.prompts_per_step=8", "rollout.group_size=4"),
    *("credit=delta", "credit.gamma=fixed", "shadow.credits=[thr]", "audit.samples=4"),
]


def test_a_run_is_the_same_with_audits_and_without(session, rows, weights, tmp_path):
    for name, continuations in (("audited", BUDGET), ("plain", 0)):
        own = [*OWN, f"evaluation.audit={continuations}"]
        if continuations:
            own += ["evaluation.at_start=true", "evaluation.every=1"]
        session.train(tmp_path / name, *own)
    a, b = (weights(tmp_path / name) for name in ("audited", "plain"))
    assert all(torch.equal(a[k], b[k]) for k in a)
    found = rows(tmp_path / "audited" / "metrics.jsonl")
    audits = {r["step"]: r for r in found if "evaluation/audit/decisive" in r}
    assert list(audits) == [0, 1, 2]
    for row in audits.values():
        for method in ("delta", "thr"):
            assert -1 <= row[f"evaluation/audit/{method}/correlation"] <= 1
    first = pq.read_table(tmp_path / "audited" / "audit" / "step_000000" / "effects.parquet")
    folder = AuditFolder(tmp_path / "alone")
    config = session.configured(*OWN, f"audit.continuations={BUDGET}")
    told = asyncio.run(audit(config, None, folder, "Credit"))
    assert first.equals(pq.read_table(folder.path / "effects.parquet")), "the same policy and seeds"
    assert "| delta | all |" in told and "| thr | negative |" in told
