"""Audits on real engines: by themselves, and between the steps of a run that they leave alone."""

from __future__ import annotations

import asyncio
import json

import pyarrow.parquet as pq
import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file

from rlvr.evaluation.audit_folder import AuditFolder
from rlvr.hydra_config import CONFIG_PATH, register, run_config
from rlvr.loop.audit_session import audit
from rlvr.loop.run import Session
from rlvr.loop.validate import validated

BUDGET = 400


@pytest.fixture(scope="module")
def configured(guessing):
    """``configured(*overrides)``: two steps with DelTA, whose gamma is state, and a shadow."""
    register()
    own = ["learner.ranks=2", "train.steps=2", "train.prompts_per_step=8", "rollout.group_size=4"]
    own += ["credit=delta", "credit.gamma=fixed", "shadow.credits=[thr]", "audit.samples=4"]

    def make(*overrides: str):
        with initialize_config_dir(CONFIG_PATH, version_base="1.3"):
            return validated(run_config(compose("train", overrides=[*guessing, *own, *overrides])))

    return make


def test_a_run_is_the_same_with_audits_and_without(ray_here, configured, tmp_path):
    session = Session()
    with asyncio.Runner() as runner:
        for name, continuations in (("audited", BUDGET), ("plain", 0)):
            own = [f"evaluation.audit={continuations}", f"train.output_dir={tmp_path / name}"]
            if continuations:
                own += ["evaluation.at_start=true", "evaluation.every=1"]
            runner.run(session.train(configured(*own)))
        runner.run(session.close())
    models = [load_file(tmp_path / n / "model" / "model.safetensors") for n in ("audited", "plain")]
    assert all(torch.equal(models[0][k], models[1][k]) for k in models[0])
    rows = map(json.loads, (tmp_path / "audited" / "metrics.jsonl").read_text().splitlines())
    audits = {r["step"]: r for r in rows if "evaluation/audit/decisive" in r}
    assert list(audits) == [0, 1, 2]
    for row in audits.values():
        for method in ("delta", "thr"):
            assert -1 <= row[f"evaluation/audit/{method}/correlation"] <= 1
    first = pq.read_table(tmp_path / "audited" / "audit" / "step_000000" / "effects.parquet")
    folder = AuditFolder(tmp_path / "alone")
    told = asyncio.run(audit(configured(f"audit.continuations={BUDGET}"), None, folder, "Credit"))
    assert first.equals(pq.read_table(folder.path / "effects.parquet")), "the same policy and seeds"
    assert "| delta | all |" in told and "| thr | negative |" in told
