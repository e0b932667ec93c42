"""The ledger: each group of a run once, whatever killed the run in between."""

from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path

import numpy as np
import pytest

from rlvr.loop.ledger import entries
from rlvr.rollout.request import sample_seed
from rlvr.telemetry.ledger import verdict
from rlvr.telemetry.run_folder import RunFolder

sys.path.append(str(Path(__file__).parent))  # its stand-ins for the engines
test_groups = importlib.import_module("test_groups")
source, collect = test_groups.source, test_groups.collect

MODES = {
    "synchronous": {},
    "dynamic": {"dynamic_sampling": True, "group_size": 2},
    "asynchronous": {"max_staleness": 2},
    "overtaking": {"max_staleness": 2, "batch_order": "finished", "dynamic_sampling": True},
}


@pytest.mark.parametrize("mode", MODES)
def test_each_group_is_trained_on_once_after_restarts(tmp_path, mode):
    """Killed after a step that has no checkpoint: the steps since are made, and entered, again."""
    folder = RunFolder.create(tmp_path)
    done, state = 0, None
    while done < 5:
        groups, _, config = source(state=state, prompts=13, **MODES[mode])
        folder.rewind(done)
        batches = collect(groups, start=done, limit=random.randrange(1, 5))
        for batch in batches:
            folder.append(folder.ledger, entries(batch, groups.turn))
        kept = random.randrange(len(batches)) + 1  # the last checkpoint's
        done, state = batches[kept - 1].step + 1, batches[kept - 1].stream_state
    rows = folder.read_ledger()
    assert verdict(rows, 6).startswith("30, each trained on once")
    trained = [row["draw"] for row in rows if row["trained"]]
    assert len(set(trained)) == 30
    # What was settled in the stream is what the ledger has: nothing was dropped silently.
    settled = set(range(state["first"])) | set(state["settled"])
    assert {row["draw"] for row in rows} == settled


def test_an_entry_says_which_seeds_versions_and_ids():
    groups, _, config = source(prompts=4)  # a prompt comes again within a step
    batches = collect(groups)
    for batch in batches:
        rows = entries(batch, groups.turn)
        for row, group in zip(rows, batch.groups, strict=True):
            assert row["prompt"] == group.prompt.id and row["step"] == batch.step + 1
            assert row["versions"] == [0, 0]
            step, repeat = row["turn"]
            for i, sample in enumerate(group.samples):
                seed = sample_seed(config.train.seed, group.prompt.id, step, repeat * 4 + i)
                assert sample.response.token_ids[0] == np.int32(seed % 10**6)
        assert len({row["digest"] for row in rows}) == len(rows)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda rows: rows, "6, each trained on once; 1 discarded"),
        (lambda rows: [*rows, rows[1]], r"draw 1 (prompt p) at steps 1 and 1"),
        (lambda rows: rows[:-1], "1 of 2 groups at step 3"),
        (lambda rows: [*rows[:2], *rows[5:]], "nothing at step 2"),
    ],
)
def test_the_verdict_names_what_is_wrong(change, told):
    order = [(1, 0), (1, 1), (2, 2), (2, 3), (2, 4), (3, 5), (3, 6)]
    rows = [{"step": s, "draw": d, "prompt": "p", "trained": d != 2} for s, d in order]
    assert told in verdict(change(rows), 2)


def test_no_ledger_no_verdict():
    assert verdict([], 4) is None
