"""From values of prefixes to effects, and through the folder and back."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from pyarrow import parquet

from rlvr.errors import DataError, RunFolderError
from rlvr.evaluation.agreement import agreements
from rlvr.evaluation.audit_batch import AuditBatch, reliability
from rlvr.evaluation.audit_folder import AuditFolder
from rlvr.evaluation.audit_plan import Audited
from rlvr.evaluation.settings import folder_name


@pytest.fixture
def batch(draw_groups, seed):
    generator = np.random.default_rng(seed)
    groups, advantages = draw_groups(generator, [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]], shortest=3)
    samples = [s for g in groups for s in g.samples]
    coefficients = {
        name: [generator.random(len(s.response.token_ids)).astype(np.float32) for s in samples]
        for name in ("delta", "thr")
    }
    coefficients["thr"][1] = None
    return AuditBatch(groups, advantages, coefficients, {"delta": 0.25, "thr": 0.5})


def test_effects_are_differences_of_means(batch, seed):
    generator = np.random.default_rng(seed)
    lengths = [len(s.response.token_ids) for s in batch.samples]
    every, ends = np.arange(lengths[0]), np.array([0, lengths[5] - 1])
    audited = [Audited(0, every, every, every + 1), Audited(5, ends, ends, ends + 1)]
    values = {
        (a.response, k): (generator.random(12) < 0.5).astype(float)
        for a in audited
        for k in a.lengths
        if k < lengths[a.response]
    }
    effects = batch.effects(audited, values)
    expected = []
    for r, t in zip(effects.response, effects.position, strict=True):
        reward = batch.samples[r].verdict.reward
        after = values[r, t + 1].mean() if t + 1 < lengths[r] else reward
        expected.append(after - values[r, t].mean())
    np.testing.assert_allclose(effects.delta, expected, atol=1e-12)
    np.testing.assert_array_equal(effects.response, [0] * lengths[0] + [5, 5])
    np.testing.assert_array_equal(effects.advantage, batch.advantages[effects.response])
    own = batch.coefficients["thr"]
    last = [own[5][0], own[5][-1]]
    np.testing.assert_array_equal(effects.coefficients["thr"], [*own[0], *last])
    assert ((effects.low <= effects.delta) & (effects.delta <= effects.high)).all()


def test_results_are_called_after_the_run_that_saved_the_model():
    names = {"Qwen/Qwen3-8B": "Qwen3-8B", "outputs/run_1/model/": "run_1_model", "model": "model"}
    assert {path: folder_name(path) for path in names} == names


def test_what_has_no_credit_or_no_advantage_is_not_audited(batch):
    assert {a.response for a in batch.planned(0, 10_000)} == {0, 2, 3, 4, 5}
    silent = replace(batch, advantages=0 * batch.advantages)
    assert silent.planned(0, 10_000) == []
    with pytest.raises(DataError, match="nothing can be audited"):
        silent.effects([], {})


def test_the_folder_gives_back_what_it_was_given(batch, tmp_path, seed):
    folder = AuditFolder(tmp_path / "audit")
    assert folder.batch({}) is None
    settings = {"model": "m", "audit.samples": 16}
    folder.begin({**settings, "audit.samples": 4})
    folder.begin(settings)  # of the first there is nothing yet
    folder.begin(settings)
    folder.keep_batch(batch)
    with pytest.raises(RunFolderError, match="another audit:\n- audit.samples: 16 there, 8 now"):
        folder.begin({**settings, "audit.samples": 8})
    again = folder.batch({g.prompt.id: g.prompt for g in batch.groups})
    np.testing.assert_array_equal(again.advantages, batch.advantages)
    for name, own in batch.coefficients.items():
        for a, b in zip(own, again.coefficients[name], strict=True):
            np.testing.assert_array_equal(a, b)
    for a, b in zip(batch.samples, again.samples, strict=True):
        np.testing.assert_array_equal(a.response.token_ids, b.response.token_ids)
        np.testing.assert_array_equal(a.response.logp_rollout, b.response.logp_rollout)
        assert (a.text, a.verdict.reward, a.verdict.outcome) == (
            b.text,
            b.verdict.reward,
            b.verdict.outcome,
        )
    generator = np.random.default_rng(seed)
    audited = batch.planned(0, 10_000)
    wanted = [(a.response, k) for a in audited for k in a.lengths]
    values = {key: (generator.random(8) < 0.4).astype(float) for key in wanted}
    first = dict(list(values.items())[:5])
    folder.keep_values(first)
    folder.keep_values({k: v for k, v in values.items() if k not in first})
    known = folder.values()
    assert known.keys() == values.keys()
    np.testing.assert_array_equal([known[k] for k in values], list(values.values()))
    effects = again.effects(audited, known)
    table = folder.finish("Credit of m", again, effects, agreements(effects))
    assert "| delta | negative | " in table
    result = json.loads((folder.path / "result.json").read_text())
    assert result["seconds"] == {"delta": 0.25, "thr": 0.5}
    assert result["tokens"] == len(effects.delta) and set(result["methods"]) == {"delta", "thr"}
    rows = parquet.read_table(folder.path / "effects.parquet").to_pylist()
    assert [r["delta"] for r in rows] == effects.delta.tolist()
    assert (folder.path / "result.png").stat().st_size > 10_000


def test_reliability_is_the_correlation_with_another_such_audit(seed):
    generator = np.random.default_rng(seed)
    p, q = generator.random((2, 1500, 1))
    before, after, before_2, after_2 = (generator.random((1500, 16)) < v for v in (p, q, p, q))
    other = np.corrcoef(after.mean(1) - before.mean(1), after_2.mean(1) - before_2.mean(1))[0, 1]
    assert reliability(before, after) == pytest.approx(other, abs=0.05)
    assert np.isnan(reliability(before[:, :1], after[:, :1]))
