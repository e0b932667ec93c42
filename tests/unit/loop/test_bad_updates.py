"""Batches whose update was skipped: what is kept of them, and when the run ends."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
import torch
from pyarrow import parquet

from rlvr.config import TrainConfig
from rlvr.errors import LearnerError
from rlvr.learner.batching import rank_batches
from rlvr.learner.skipped import UpdateInputs, told_by_gradient
from rlvr.loop.bad_updates import BadUpdates
from rlvr.loop.batch import RolloutBatch


class Learners:
    """The parts of two ranks; the second mini-batch was skipped."""

    def __init__(self, groups, advantages) -> None:
        self.parts = []
        for part in rank_batches(groups, advantages, ranks=2, groups_per_mini_batch=2):
            logp_old = part.response_id[part.sequence_id] + 0.5
            logp_old[part.response_id[part.sequence_id] == 13] = torch.nan
            part = part.__class__(**{**vars(part), "logp_old": logp_old})
            self.parts.append(UpdateInputs.of(part, 2 * logp_old, [1]))

    async def update_inputs(self):
        return self.parts


@pytest.fixture
def batch(draw_groups, seed):
    groups, advantages = draw_groups(np.random.default_rng(seed), [[1, 0, 1, 0]] * 4)
    return RolloutBatch(6, groups, {}), advantages


def look(folder, batch, advantages, in_a_row: int, skipped: int = 1) -> None:
    config = TrainConfig(output_dir=str(folder), max_bad_updates=3)
    metrics = {"update/skipped": skipped, "update/skipped_in_a_row": in_a_row}
    learners = Learners(batch.groups, advantages)
    asyncio.run(BadUpdates(config, learners).look(batch, advantages, metrics))


def test_the_batch_is_kept_with_all_that_the_update_read(tmp_path, batch, capsys):
    batch, advantages = batch
    look(tmp_path, batch, advantages, in_a_row=2)
    file = tmp_path / "skipped" / "step_000007.parquet"
    assert "step 7: skipped 1 optimizer steps" in (told := capsys.readouterr().out)
    assert str(file) in told
    rows = parquet.read_table(file).to_pylist()
    samples = [s for g in batch.groups for s in g.samples]
    assert [row["response_token_ids"] for row in rows] == [
        s.response.token_ids.tolist() for s in samples
    ]
    assert [row["prompt_token_ids"] for row in rows] == [
        list(g.prompt.token_ids) for g in batch.groups for _ in g.samples
    ]
    assert [row["sequence_token_ids"] for row in rows] == [
        s.response.sequence.tolist() for s in samples
    ]
    assert np.allclose([row["advantage"] for row in rows], advantages)
    assert [row["mini_batch"] for row in rows] == [0] * 8 + [1] * 8
    assert [row["skipped"] for row in rows] == [False] * 8 + [True] * 8
    for i, row in enumerate(rows):
        expected = [np.nan if i == 13 else i + 0.5] * row["response_tokens"]
        assert np.array_equal(row["logp_old"], expected, equal_nan=True)
        assert np.array_equal(row["coefficient"], 2 * np.array(expected), equal_nan=True)


def test_too_many_in_a_row_end_the_run_with_the_path(tmp_path, batch):
    with pytest.raises(LearnerError, match=r"max_bad_updates=3.*step_000007\.parquet"):
        look(tmp_path, *batch, in_a_row=3)


def test_nothing_is_kept_of_an_update_that_was_made(tmp_path, batch):
    look(tmp_path, *batch, in_a_row=0, skipped=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [1.5, torch.nan, torch.inf, -torch.inf])
def test_a_loss_that_is_not_finite_has_no_finite_gradient(value):
    logp = torch.ones(3, requires_grad=True)
    loss = told_by_gradient(logp.sum() + value)
    loss.backward()
    finite = bool(np.isfinite(value))
    assert logp.grad.isfinite().all() == finite
    assert not finite or (loss.item() == 4.5 and logp.grad.tolist() == [1, 1, 1])
