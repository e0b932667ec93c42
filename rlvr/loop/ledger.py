"""What the ledger of a run holds of a step."""

from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import numpy as np

from rlvr.data.stream import Draw
from rlvr.loop.batch import RolloutBatch
from rlvr.types import Group


def entries(batch: RolloutBatch, turn: Callable[[Draw], tuple[int, int]]) -> list[dict[str, Any]]:
    """A row per draw that came to its end with this batch, trained on or discarded.

    ``turn`` says of a draw the step that its seeds derive from, and how often its prompt was drawn
    for that step before: response i of n has the seed ``sample_seed(train.seed, prompt, step,
    repeat * n + i)``.
    """
    rows = []
    for draw, group in zip(batch.draws, batch.groups, strict=True):
        step, repeat = turn(draw)
        rows.append(_row(batch, draw, True) | {"turn": [step, repeat]} | _sampled(group))
    return rows + [_row(batch, draw, False) for draw in batch.discarded]


def _row(batch: RolloutBatch, draw: Draw, trained: bool) -> dict[str, Any]:
    told = {"step": batch.step + 1, "draw": draw.number, "prompt": draw.prompt.id}
    return told | {"trained": trained}


def _sampled(group: Group) -> dict[str, Any]:
    """The versions that sampled the group, oldest and newest, and a digest of its token ids."""
    digest = blake2b(digest_size=8)
    for sample in group.samples:
        ids = sample.response.token_ids
        digest.update(len(ids).to_bytes(4, "little") + ids.astype("<i4").tobytes())
    versions = np.concatenate([s.response.policy_version for s in group.samples])
    ends = [int(versions.min()), int(versions.max())] if len(versions) else []
    return {"versions": ends, "digest": digest.hexdigest()}
