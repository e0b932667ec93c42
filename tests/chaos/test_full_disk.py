"""A run whose disk is full ends with a word; with room it goes on, as if nothing had been."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlvr.errors import RunFolderError
from rlvr.loop.checkpoint import Checkpoint
from rlvr.loop.checkpoints import Checkpoints
from rlvr.storage import Folder
from rlvr.telemetry.record import RunRecord

ROOT = Path(__file__).parents[2]
STEPS = 12
# In a mount namespace of its own: what was there when it ended is copied to where all can see it.
SCRIPT = """
mount -t tmpfs -o size=3m tmpfs {disk}
{train} > {folder}/full.log 2>&1
echo $? > {folder}/full.status
cp -r {disk} {folder}/full || true
mount -o remount,size=100m {disk}
{train} train.resume=auto train.keep_checkpoints=1 > {folder}/room.log 2>&1
echo $? > {folder}/room.status
cp -r {disk} {folder}/room
"""


@pytest.mark.timeout(600)
def test_a_full_disk_is_told_and_nothing_of_it_is_taken_for_whole(tiny_model, tmp_path):
    rows = [{"problem": f"w{i} w{i + 1}", "answer": "w5"} for i in range(3, 60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    disk = tmp_path / "disk"
    disk.mkdir()
    words = [
        *(sys.executable, "-m", "rlvr.train", f"model.path={tiny_model(True)}"),
        *("model.dtype=float32", f"data.train=[{tmp_path / 'rows.jsonl'}]", "data.template=none"),
        *("data.verifier=exact", "data.max_prompt_tokens=16", "rollout.max_response_tokens=16"),
        *("rollout.group_size=4", "train.prompts_per_step=4", f"train.steps={STEPS}"),
        *("train.checkpoint_every=1", "train.keep_checkpoints=1000", "learner.zero_stage=2"),
        *("telemetry.wandb=disabled", "telemetry.progress=false", f"train.output_dir={disk}/run"),
    ]
    script = SCRIPT.format(disk=disk, folder=tmp_path, train=" ".join(words))
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script]
    made = subprocess.run(unshare[:4] + ["mount", "-t", "tmpfs", "tmpfs", str(disk)])
    if made.returncode:
        pytest.skip("no mount namespaces for an ordinary user here")
    subprocess.run(unshare, cwd=ROOT, env=os.environ | {"RAY_ADDRESS": ""}, check=True)

    told = (tmp_path / "full.log").read_text()
    assert (tmp_path / "full.status").read_text() == "1\n", told[-3000:]
    assert "The run has failed:" in told and "Traceback" not in told, told[-3000:]
    assert "No space left on device" in told and "Make room there" in told
    own = Checkpoints(Folder(str(tmp_path / "full" / "run" / "checkpoints")))
    assert own.steps
    for step in own.steps:  # that has a manifest has all
        try:
            Checkpoint.read(own.at(step))
        except RunFolderError as error:
            assert step == own.steps[-1] and "manifest.json is damaged" in str(error)

    told = (tmp_path / "room.log").read_text()
    assert (tmp_path / "room.status").read_text() == "0\n", told[-3000:]
    assert f"train.resume: from {disk}/run/checkpoints/step_" in told
    record = RunRecord.read(tmp_path / "room" / "run")
    assert record.ledger == f"{4 * STEPS}, each trained on once"
    assert [row["step"] for row in record.steps] == list(range(1, STEPS + 1))
