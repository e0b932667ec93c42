"""What a learner worker does before there is a rank."""

from __future__ import annotations

import os
import time

from rlvr.learner.worker import drop_stale_locks


def test_a_lock_whose_build_was_killed_is_removed(tmp_path):
    ages = {"killed": 700, "building": 60}
    for name, age in ages.items():
        lock = tmp_path / name / "lock"
        lock.parent.mkdir()
        lock.touch()
        os.utime(lock, (time.time() - age,) * 2)
    drop_stale_locks(tmp_path)
    assert [p.parent.name for p in tmp_path.glob("*/lock")] == ["building"]
    drop_stale_locks(tmp_path / "nowhere")
