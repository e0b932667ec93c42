"""Methods beside the one in use: it gets what it gets alone, and they what they would get."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from rlvr.algorithm.credit import CREDITS, Credit, Needs
from rlvr.algorithm.credit.shadow import credit_methods, prepared
from rlvr.config import RunConfig
from rlvr.errors import ConfigError
from rlvr.learner.batching import rank_batches
from rlvr.learner.policy import load_policy
from rlvr.learner.scoring import ScoringRank
from rlvr.types import IN_USE, CreditInputs, samples_of

SHADOWS = {
    "uniform": "uniform",
    "random": "random",
    "entropy_top": "entropy_top",
    "delta": "delta",
    "delta(proxy=topk_hidden)": {"name": "delta", "proxy": "topk_hidden"},
    "thr(p=-0.1)": {"name": "thr", "p": -0.1},
    "nthr": "nthr",
    "oar_g": "oar_g",
    "oar_p(stride=2)": {"name": "oar_p", "stride": 2},
}


class Answers:
    """The driver's part: every answer is the last token but one."""

    pad_token_id = 0
    longest = 512

    def answer_span(self, sample):
        n = len(sample.response.token_ids)
        return n - 2, n - 1

    def tokenize(self, text):
        raise NotImplementedError

    def pieces(self, token_ids):
        raise NotImplementedError

    async def ask(self, questions):
        raise NotImplementedError

    async def values(self, prefixes, samples):
        raise NotImplementedError


@dataclass
class Rude:
    """Takes numbers from everybody's generator, and leaves its features in a mess."""

    needs = Needs.STATISTICS | Needs.EVERY_TOKEN

    async def prepare(self, groups, driver):
        return CreditInputs({"answer_span": torch.zeros(len(samples_of(groups)), 2).long()})

    def assign(self, batch, features, ranks):
        assert int(batch.inputs.sequence["answer_span"].sum()) == 0
        c = torch.rand(len(features.logp))
        for own in (features.logp, features.entropy, features.log_normaliser):
            own.fill_(torch.nan)
        return Credit(c)


@pytest.fixture(scope="module", autouse=True)
def _rude():
    CREDITS.names()  # those at home are known from here on
    CREDITS.register("rude")(Rude)
    yield
    del CREDITS._entries["rude"]


@pytest.fixture(scope="module")
def bench(module_seed, tiny_model, draw_groups):
    """``assigned(credit, shadows, objective, store)``: a rank after it has assigned credit, what
    it reports, and c_t by every method. The first group can receive no gradient.
    """
    generator = np.random.default_rng(module_seed)
    rewards = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1]]
    groups, advantages = draw_groups(generator, rewards, shortest=4)
    config = RunConfig()
    config.model.path, config.model.dtype = tiny_model(False), "float32"
    config.rollout.temperature = 0.8
    config.learner.tokens_per_scoring_batch = 60
    device = torch.device("cpu")
    policy = load_policy(config.model, config.learner, 0.8, device)

    known = {}

    def assigned(*what, **options):
        key = repr((what, options))
        if key not in known:
            known[key] = fresh(*what, **options)
        return known[key]

    def fresh(credit, shadows=(), objective="dapo", store="device", steps=1):
        config.credit = {"name": credit} if isinstance(credit, str) else credit
        config.shadow.credits = list(shadows)
        config.objective = {"name": objective}
        config.learner.features = store
        methods = credit_methods(config)
        inputs = asyncio.run(prepared(methods, groups, Answers()))
        rank = ScoringRank(config, device, 0, policy, policy, methods=methods)
        # Two mini-batches: of the first, methods that need nothing have nothing scored.
        [batch] = rank_batches(groups, advantages, ranks=1, groups_per_mini_batch=2, inputs=inputs)
        for _ in range(steps):
            rank.load(batch)
            report = rank.score()
            told, found = rank.assign_credit(wanted=True)
        times = [name for name in told if name.endswith("/assign_s")]
        assert len(times) == 1 + len(shadows) and all(told.pop(t).value > 0 for t in times)
        return rank, report | told, found.coefficient

    return assigned


def equal(a, b):
    return torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())


@pytest.mark.parametrize(
    "credit, objective, store",
    [
        *((credit, "dapo", "device") for credit in SHADOWS.values()),
        *((credit, "real", "recompute") for credit in ("uniform", "entropy_top", "delta")),
    ],
)
def test_the_method_in_use_gets_what_it_gets_alone(bench, credit, objective, store):
    """Bit for bit: coefficients, log-probabilities and what was left out of them, and metrics."""
    alone, told_alone, own = bench(credit, [], objective, store)
    beside, told, every = bench(credit, [*SHADOWS.values()], objective, store)
    assert equal(alone.coefficients, beside.coefficients)
    assert equal(alone.batch.logp_old, beside.batch.logp_old)
    assert set(every) == {*own, *SHADOWS}
    for name, metric in told_alone.items():
        assert told[name] == metric or name == "score/tokens", name


@pytest.mark.parametrize("label", SHADOWS)
def test_a_shadow_gets_what_it_would_get_in_use(bench, label):
    """Up to rounding, for it is scored in other micro-batches."""
    _, told_alone, found = bench(SHADOWS[label], [], "dapo", "device")
    for main in ("uniform", "entropy_top", "delta"):
        _, told, every = bench(main, [*SHADOWS.values()], "dapo", "device")
        tolerance = 1e-3 if label == "oar_g" else 1e-5
        assert every[label] == pytest.approx(found[IN_USE], rel=tolerance, abs=tolerance)
        for name, metric in told_alone.items():
            if name.startswith("credit/"):
                same = told[name.replace("credit", f"shadow/{label}", 1)].value
                assert same == pytest.approx(metric.value, rel=1e-3), name


def test_agreement_is_told(bench):
    rank, told, every = bench("delta", ["delta", "random", "uniform"])
    assert told["shadow/delta/correlation"].value == pytest.approx(1)
    assert told["shadow/delta/gradient_cosine"].value == pytest.approx(1)
    a = rank.batch.token_advantage.numpy()
    rho = np.corrcoef(every[IN_USE][a != 0], every["random"][a != 0])[0, 1]
    assert told["shadow/random/correlation"].value == pytest.approx(rho, rel=1e-4)
    assert 0.5 < told["shadow/random/gradient_cosine"].value < 1
    assert "shadow/uniform/correlation" not in told, "of what is constant there is none"
    assert 0.5 < told["shadow/uniform/gradient_cosine"].value < 1


@pytest.mark.parametrize("credit", ["oar_g", "entropy_top", "rude"])
def test_a_rude_shadow_disturbs_nobody(bench, credit):
    """Not the generator, which a method in use may draw from in the next step too."""
    found = []
    for shadows in ((), ("rude", {"name": "random", "seed": 3})):
        torch.manual_seed(7)
        rank, _, _ = bench(credit, shadows, steps=2)
        found.append((rank.coefficients, torch.rand(3)))
    assert equal(found[0][0], found[1][0]) and equal(found[0][1], found[1][1])


@pytest.mark.parametrize(
    "credits, told",
    [
        (["thr", {"name": "thr", "q": 0.1}], r"shadow\.credits\[1\]\.q: no such key"),
        (["thr", {"name": "thr", "p": 2}], r"shadow\.credits\[1\]: p must be in \[-1, 1\]"),
        (["trh"], r"shadow\.credits\[0\]\.name: .* 'trh'.* 'thr'"),
        ([3], r"shadow\.credits\[0\]: '3' is neither a name nor"),
        (["thr", "delta", "thr"], r"shadow\.credits\[2\]: thr is there twice"),
    ],
)
def test_errors_name_the_key(credits, told):
    config = RunConfig()
    config.shadow.credits = credits
    with pytest.raises(ConfigError, match=told):
        credit_methods(config)


def test_strength_draws_what_is_used_and_no_shadow(bench):
    rank, _, found = bench("delta", ["random"])
    rank.load(rank.batch)
    rank.score()
    own, other = found[IN_USE], found["random"]
    _, drawn = rank.assign_credit(wanted=True, strength=0.25)
    assert drawn.coefficient[IN_USE] == pytest.approx(1 + 0.25 * (own - 1), rel=1e-5)
    assert drawn.coefficient["random"] == pytest.approx(other)
    assert np.array_equal(rank.coefficients.numpy(), drawn.coefficient[IN_USE])
