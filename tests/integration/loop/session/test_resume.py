"""A run that goes on from a checkpoint comes to the same numbers, bit for bit."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from rlvr.errors import ConfigError
from rlvr.export import export
from rlvr.storage import Folder
from rlvr.telemetry.ledger import verdict
from rlvr.telemetry.run_folder import RunFolder

OWN = [  # 32 prompts: the second epoch begins within a step that is resumed
    *("train.steps=4", "train.prompts_per_step=12", "train.prompts_per_mini_batch=6"),
    *("rollout.group_size=4", "learner.zero_stage=2", "learner.lr=3e-3"),
    *("learner.entropy_bonus=0.1", "credit=random", "strength=linear", "strength.steps=4"),
    "train.checkpoint_every=2",
]


def test_resumed_equals_uninterrupted(session, rows, weights, tmp_path):
    session.train(tmp_path / "whole", *OWN)
    checkpoints = tmp_path / "whole" / "checkpoints"
    assert sorted(p.name for p in checkpoints.glob("step_*")) == ["step_000002", "step_000004"]
    told = [r for r in rows(tmp_path / "whole" / "metrics.jsonl") if "checkpoint/gb" in r]
    assert [r["step"] for r in told] == [2, 4]
    assert all(r["time/checkpoint_s"] > 0 for r in told)

    session.train(tmp_path / "resumed", *OWN, f"train.resume='{checkpoints}/step_000002'")

    expected, actual = (weights(tmp_path / name) for name in ("whole", "resumed"))
    assert all(torch.equal(expected[k], actual[k]) for k in expected)
    ledgers = [RunFolder(tmp_path / name).read_ledger() for name in ("whole", "resumed")]
    assert verdict(ledgers[0], 12) == "48, each trained on once"
    assert ledgers[1] == [row for row in ledgers[0] if row["step"] > 2]
    for step in (3, 4):
        a, b = (
            pq.read_table(tmp_path / name / "responses" / f"step_{step:06d}.parquet")
            for name in ("whole", "resumed")
        )
        assert a["response"].to_pylist() == b["response"].to_pylist()
        assert a["prompt"].to_pylist() == b["prompt"].to_pylist()
        assert a["coefficient"].to_pylist() == b["coefficient"].to_pylist()
    steps = [r for r in RunFolder(tmp_path / "resumed").read_metrics() if "credit/strength" in r]
    assert [r["credit/strength"] for r in steps] == pytest.approx([2 / 3, 1])


def test_adapters_resume_and_are_exported(session, weights, guesser, tmp_path):
    own = [
        *("train.steps=2", "train.prompts_per_step=8", "train.checkpoint_every=1"),
        *("rollout.group_size=4", "learner.zero_stage=3", "learner.lr=1e-2", "credit=delta"),
        *("learner.lora.rank=4", "objective=grpo", "objective.kl_coefficient=0.01"),
    ]
    session.train(tmp_path / "whole", *own)
    checkpoints = tmp_path / "whole" / "checkpoints"
    session.train(tmp_path / "resumed", *own, f"train.resume='{checkpoints}/step_000001'")
    expected, actual = (weights(tmp_path / name) for name in ("whole", "resumed"))
    assert all(torch.equal(expected[k], actual[k]) for k in expected)
    base = AutoModelForCausalLM.from_pretrained(guesser, dtype=torch.float32)
    names = {k for k, p in base.named_parameters() if not torch.equal(p, expected[k])}
    assert expected.keys() == dict(base.named_parameters()).keys()
    assert names == {k for k in expected if "_proj" in k}

    source = Folder.at(str(tmp_path / "whole"))
    export(source, tmp_path / "merged")
    found = load_file(tmp_path / "merged" / "model.safetensors")
    assert all(torch.allclose(found[k], expected[k], rtol=0, atol=1e-6) for k in expected)
    export(source, tmp_path / "adapter", adapter=True)
    ids = torch.arange(3, 20)[None]
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole" / "model", dtype=torch.float32)
    before = base(ids).logits
    after = PeftModel.from_pretrained(base, tmp_path / "adapter")(ids).logits
    torch.testing.assert_close(after, whole(ids).logits, rtol=1e-4, atol=1e-4)
    assert float((after - before).detach().abs().max()) > 1e-2


def test_a_missing_checkpoint_is_named(session, train, tmp_path):
    own = [f"train.output_dir={tmp_path / 'run'}", f"train.resume={tmp_path / 'nothing'}"]
    with pytest.raises(ConfigError, match=r"train\.resume: no checkpoint in .*nothing"):
        train(session.configured(*OWN, *own))
