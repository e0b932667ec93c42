"""Values of prefixes, and what of them is asked for again."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from rlvr.config import RunConfig
from rlvr.evaluation.audit_batch import AuditBatch
from rlvr.loop.audit import Audit


class Counted:
    """Continuations whose reward is the number of tokens before them; the third ask fails."""

    def __init__(self) -> None:
        self.asked = []

    async def each(self, prefixes, samples, version, finish):
        for place, prefix in enumerate(prefixes):
            if len(self.asked) == 2:
                raise RuntimeError("interrupted")
            self.asked.append((prefix.prompt.id, len(prefix.token_ids)))
            finish(place, np.full(samples, float(len(prefix.token_ids))))


def test_what_is_known_is_not_asked_again(draw_groups, seed):
    groups, advantages = draw_groups(np.random.default_rng(seed), [[1.0, 0.0]], shortest=4)
    lengths = [len(s.response.token_ids) for s in groups[0].samples]
    for sample in groups[0].samples:
        sample.response.logp_rollout[:] = -1.0  # nothing is certain
    credit = [np.ones(n, np.float32) for n in lengths]
    batch = AuditBatch(groups, advantages, {"uniform": credit}, {})
    continuations = Counted()
    audit = Audit(RunConfig(), [], None, None, continuations, None)
    audited = audit.planned(batch, 10_000)
    kept = []
    with pytest.raises(RuntimeError, match="interrupted"):
        asyncio.run(audit.values(batch, audited, 0, keep=kept.append))
    [known] = kept
    assert list(known) == [(0, 0), (0, 1)], "what was found before is kept"
    continuations.asked = [None, None, None]
    values = asyncio.run(audit.values(batch, audited, 0, known))
    every = {(r, k) for r, n in enumerate(lengths) for k in range(n)}
    assert set(values) == every and len(continuations.asked) == 3 + len(every) - 2
    effects = batch.effects(audited, values)
    last = [effects.position[effects.response == r].max() for r in (0, 1)]
    assert last == [n - 1 for n in lengths]
    inner = effects.delta[effects.position < np.array(last)[effects.response]]
    np.testing.assert_allclose(inner, 1.0)
