"""DelTA against its definition: explicit distances, one token at a time, in float64."""

from __future__ import annotations

import math
import random

import pytest
import torch

from rlvr.algorithm.credit import CREDITS, SoloRanks
from rlvr.algorithm.credit.delta import delta_coefficients
from rlvr.algorithm.credit.delta_solver import DeltaOptions, DeltaSolver, FewStreamsSolver

ABLATIONS = [
    {},
    {"refinements": 0},
    {"refinements": 2},
    {"refinements": 3, "lambda_range": [0.3, 1.9]},
    {"within_side": True},
    {"gamma": "fixed", "refinements": 2},
    {"gamma": "fixed", "fixed_gamma": "first_step", "refinements": 2},
    {"gamma": "fixed", "within_side": True},
    {"hard": True},
    {"normalise": False},
    {"range_map": False},
    {"range_map": False, "normalise": False, "refinements": 2},
]


def oracle(
    v,
    advantage,
    refinements=1,
    lambda_range=(0.8, 1.2),
    within_side=False,
    gamma="adaptive",
    fixed_gamma="mean_distance",
    hard=False,
    normalise=True,
    range_map=True,
):
    """Steps 1 to 6, with every distance formed."""
    T = len(v)
    sign = [0 if a == 0 else math.copysign(1, a) for a in advantage.tolist()]
    if 1 not in sign or -1 not in sign:
        return torch.ones(T, dtype=torch.float64)

    def centroid(side, alpha):
        top, bottom = torch.zeros(v.shape[1], dtype=torch.float64), 0.0
        for t in range(T):
            if sign[t] == side:
                top = top + abs(float(advantage[t])) * alpha[t] * v[t]
                bottom += abs(float(advantage[t])) * alpha[t]
        return top / bottom if bottom else None

    def margins(mu):
        own = {t: float(((v[t] - mu[sign[t]]) ** 2).sum()) for t in range(T) if sign[t]}
        if within_side:
            return {t: -own[t] for t in own}
        return {t: float(((v[t] - mu[-sign[t]]) ** 2).sum()) - own[t] for t in own}

    def deviation(d):
        result = {}
        for side in (1, -1):
            mine = [d[t] for t in d if sign[t] == side]
            mean = sum(mine) / len(mine)
            variance = sum((x - mean) ** 2 for x in mine) / len(mine)
            result[side] = math.sqrt(max(variance, 1e-8))
            if gamma == "fixed" and fixed_gamma == "mean_distance":
                result[side] = max(sum(abs(x) for x in mine) / len(mine), 1e-4)
        return result

    def assignment(d, g):
        alpha = [0.0] * T
        for t in d:
            x = d[t] / g[sign[t]]
            alpha[t] = float(x > 0) if hard else 1 / (1 + math.exp(-x))
        return alpha

    mu = {side: centroid(side, [1.0] * T) for side in (1, -1)}
    d = margins(mu)
    g = deviation(d)
    for _ in range(refinements):
        alpha = assignment(d, g)
        for side in (1, -1):
            moved = centroid(side, alpha)
            mu[side] = mu[side] if moved is None else moved
        g = deviation(d) if gamma == "adaptive" else g
        d = margins(mu)
    alpha = assignment(d, g)
    low, high = lambda_range if range_map else (0.0, 1.0)
    lam = [low + (high - low) * a for a in alpha]
    scale = T / sum(lam) if normalise else 1.0
    return torch.tensor([x * scale for x in lam], dtype=torch.float64)


def draw(tokens=60, width=5):
    v = torch.randn(tokens, width, dtype=torch.float64)
    advantage = torch.randn(tokens, dtype=torch.float64)
    advantage[torch.rand(tokens) < 0.2] = 0
    advantage[:2] = torch.tensor([0.7, -0.4])
    return v + 0.3 * advantage.sign()[:, None], advantage


@pytest.mark.parametrize("options", ABLATIONS, ids=str)
def test_equals_the_definition(seed, options):
    v, advantage = draw()
    c = delta_coefficients(v, advantage, **options)
    torch.testing.assert_close(c, oracle(v, advantage, **options), rtol=1e-9, atol=1e-9)


def test_full_token_gradients(tiny):
    """v = the whole gradient of log p(y_t) with respect to lm_head, from autograd."""
    policy, batch = tiny.Policy(vocabulary=5, width=3), tiny.batch((3, 2), vocabulary=5)
    hidden = policy.hidden(policy.embed(batch.input_ids), batch)[batch.predict_index].detach()
    rows = []
    for h, y in zip(hidden, batch.target, strict=True):
        log_p = (policy.weight @ h).log_softmax(-1)[y]
        rows.append(torch.autograd.grad(log_p, policy.weight)[0].flatten())
    v = torch.stack(rows)
    a = batch.token_advantage
    torch.testing.assert_close(delta_coefficients(v, a), oracle(v, a), rtol=1e-9, atol=1e-9)


def test_alpha_maximises_its_objective(seed):
    """α* over [0, 1] of αD + γ·H(α), against a grid; D and γ formed here."""
    v, advantage = draw()
    options = {"normalise": False, "range_map": False, "refinements": 0}
    alpha = delta_coefficients(v, advantage, **options)
    weight = advantage.abs()[:, None]
    plus, minus = (
        (weight * v)[side].sum(0) / weight[side].sum() for side in (advantage > 0, advantage < 0)
    )
    d = ((v - minus) ** 2).sum(1) - ((v - plus) ** 2).sum(1)
    d = d * advantage.sign()
    grid = torch.linspace(1e-6, 1 - 1e-6, 2001, dtype=torch.float64)
    entropy = -(grid * grid.log() + (1 - grid) * (1 - grid).log())
    for side in (advantage > 0, advantage < 0):
        gamma = d[side].std(correction=0)
        for a, x in zip(alpha[side], d[side], strict=True):
            own = a * x + gamma * -(a * a.log() + (1 - a) * (1 - a).log())
            assert own >= (grid * x + gamma * entropy).max() - 1e-12


def test_mass_and_symmetry(seed):
    v, advantage = draw()
    c = delta_coefficients(v, advantage)
    assert float(c.sum()) == pytest.approx(len(c))
    # Swapping the sides swaps the roles of the centroids and nothing else.
    torch.testing.assert_close(delta_coefficients(v, -advantage), c, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(delta_coefficients(v, 13 * advantage), c, rtol=1e-9, atol=1e-9)
    shifted = delta_coefficients(v + 40 * torch.randn(5).double(), advantage)
    torch.testing.assert_close(shifted, c, rtol=1e-7, atol=1e-7)
    order = torch.randperm(len(c))
    torch.testing.assert_close(delta_coefficients(v[order], advantage[order]), c[order])
    lam = delta_coefficients(v, advantage, normalise=False)
    assert ((lam >= 0.8) & (lam <= 1.2)).all() and (lam[advantage == 0] == 0.8).all()


def test_degenerate_sides(seed):
    v, advantage = draw()
    for a in (advantage.abs(), -advantage.abs(), 0 * advantage):
        assert (delta_coefficients(v, a) == 1).all()
    assert (delta_coefficients(v[:0], advantage[:0]) == 1).all()
    flat = delta_coefficients(v[:1].expand(60, 5), advantage.sign() + (advantage == 0))
    torch.testing.assert_close(flat, torch.ones(60).double())
    for options in ABLATIONS:
        two = delta_coefficients(v[:2], torch.tensor([1.0, -1.0]), **options)
        assert two.isfinite().all()
        same = delta_coefficients(v[:1].expand(60, 5), advantage, **options)
        assert same.isfinite().all()


def test_half_precision_far_from_the_origin(seed):
    """A common offset a hundred times the signal, as hidden states have, costs no accuracy."""
    v, advantage = draw(4000, 64)
    v = v + 100 * torch.randn(64).double()
    exact = delta_coefficients(v.float().double(), advantage)
    c = delta_coefficients(v.float(), advantage.float())
    assert c.dtype == torch.float32
    torch.testing.assert_close(c.double(), exact, rtol=0, atol=2e-4)
    half = delta_coefficients(v.bfloat16(), advantage.bfloat16())
    assert half.isfinite().all() and float(half.sum()) == pytest.approx(4000, rel=1e-4)


def test_second_moments_far_from_the_origin(seed):
    """The first γ is a difference of large numbers then; float64 holds it."""
    v, advantage = draw(4000, 64)
    v = (v + 100 * torch.randn(64).double()).float()
    chunks = list(zip(torch.arange(4000).split(700), v.split(700), strict=True))
    few, many = (
        solver(lambda: iter(chunks), advantage, DeltaOptions(), SoloRanks()).coefficients()
        for solver in (FewStreamsSolver, DeltaSolver)
    )
    torch.testing.assert_close(few, many, rtol=1e-5, atol=0)


def build(**options):
    return CREDITS.build({"name": "delta", **options}, "credit")


def proxies(batch, policy, features, proxy="realised", top_k=4):
    """v of every token, one at a time."""
    rows = []
    for t in range(batch.num_response_tokens):
        y = int(batch.input_ids[batch.token_index[t]])
        h = features.states[t].double()
        if proxy == "realised":
            rows.append((1 - features.probability[t, y]) * h)
        else:
            w = policy.weight.detach()
            logits = (w @ h / features.temperature).tolist()
            top = sorted(range(len(logits)), key=lambda j: -logits[j])[:top_k]
            mass = sum(math.exp(logits[j]) for j in top)
            rows.append(w[y] - sum(math.exp(logits[j]) / mass * w[j] for j in top))
    return torch.stack(rows)


@pytest.mark.parametrize("proxy", ["realised", "topk_hidden"])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_from_features(tiny, proxy, temperature):
    policy, batch = tiny.Policy(), tiny.batch((4, 4, 3))
    batch.advantage[batch.group_id == 100] = 0  # a group without spread: counted in N and Z
    scored = batch.token_advantage != 0
    credit = tiny.assign(
        build(proxy=proxy, top_k=4), batch, policy, temperature=temperature, scored=scored
    )
    features = tiny.Features(batch, policy, temperature)
    v = proxies(batch, policy, features, proxy)
    expected = oracle(v, batch.token_advantage)
    torch.testing.assert_close(credit.coefficients, expected, rtol=1e-9, atol=1e-9)
    metrics = credit.metrics
    assert metrics["positive_mean"] == pytest.approx(
        float(expected[batch.token_advantage > 0].mean())
    )
    assert 0 < metrics["effective_sample_size"] <= 1 and metrics["centroid_distance"] > 0
    assert 0.4 < metrics["separation_auc"] <= 1


@pytest.mark.parametrize("options", ABLATIONS, ids=str)
def test_recomputed_features_cost_two_streams_beyond_the_refinements(tiny, options):
    policy, batch = tiny.Policy(), tiny.batch((4, 4, 3))
    batch.advantage[batch.group_id == 100] = 0
    batch = tiny.replace(batch, advantage=batch.advantage + 0.3 * batch.advantage.abs())
    features = tiny.Features(batch, policy, scored=batch.token_advantage != 0, recomputes=True)
    credit = build(**options).assign(batch, features, SoloRanks())
    v = proxies(batch, policy, tiny.Features(batch, policy))
    expected = oracle(v, batch.token_advantage, **options)
    torch.testing.assert_close(credit.coefficients, expected, rtol=1e-9, atol=1e-9)
    refinements = options.get("refinements", 1)
    if FewStreamsSolver.suits(build(**options)):
        assert features.streams == refinements + 2


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(
    "options", [{}, {"proxy": "topk_hidden"}, {"refinements": 2}, {"recomputes": True}], ids=str
)
def test_any_number_of_ranks_gives_the_same(tiny, size, options):
    policy, batch = tiny.Policy(), tiny.batch((4, 4, 3))
    options = dict(options)
    store = {"recomputes": options.pop("recomputes", False)}
    whole = tiny.assign(build(**options), batch, policy)
    # Groups are torn apart, and the last rank may get nothing.
    owners = [random.randrange(max(size - 1, 2)) for _ in range(batch.num_sequences)]
    coefficients, credits = tiny.assign_on_ranks(
        build(**options), batch, policy, owners, size, **store
    )
    torch.testing.assert_close(coefficients, whole.coefficients, rtol=1e-9, atol=1e-9)
    assert credits[0].metrics == pytest.approx(whole.metrics, rel=1e-6)


def test_rank_scope_is_each_rank_by_itself(tiny):
    policy, batch = tiny.Policy(), tiny.batch((4, 4), rewards=[1, 0, 0, 1, 0, 0, 0, 1])
    owners = [0, 0, 0, 0, 1, 1, 1, 1]
    own, _ = tiny.assign_on_ranks(build(scope="rank"), batch, policy, owners, 2)
    for r in range(2):
        part, n = batch.select(torch.arange(4 * r, 4 * r + 4))
        alone = tiny.assign(build(), part, policy).coefficients
        torch.testing.assert_close(own[n], alone, rtol=1e-9, atol=1e-9)
    # A rank whose tokens are all on one side gets ones, and still streams along.
    owners = [0, 1, 1, 1, 1, 1, 1, 1]
    own, _ = tiny.assign_on_ranks(build(scope="rank"), batch, policy, owners, 2)
    assert (own[batch.sequence_id == 0] == 1).all()


def test_no_spread_costs_nothing(tiny):
    policy, batch = tiny.Policy(), tiny.batch((3, 3))
    batch = tiny.replace(batch, advantage=torch.zeros(6).double())
    features = tiny.Features(batch, policy, scored=torch.zeros(batch.num_response_tokens).bool())
    credit = build().assign(batch, features, SoloRanks())
    assert (credit.coefficients == 1).all() and features.streams == 0


@pytest.mark.parametrize("recomputes", [False, True])
@pytest.mark.parametrize("size", [1, 2])
def test_groups_that_the_objective_drops_count_nowhere(tiny, recomputes, size):
    """REAL drops a group of one label, whose advantages need not be 0."""
    policy, batch = tiny.Policy(), tiny.batch((4, 4, 3))
    scored = batch.sequence_id < 8
    rest, n = batch.select(torch.arange(8))
    expected = torch.ones(batch.num_response_tokens, dtype=torch.float64)
    v = proxies(rest, policy, tiny.Features(rest, policy))
    expected[n] = oracle(v, rest.token_advantage)
    features = [tiny.Features(batch, policy, scored=scored, recomputes=recomputes)]
    if size == 1:
        actual = build().assign(batch, features[0], SoloRanks()).coefficients
    else:
        parts = [batch.select(torch.arange(batch.num_sequences)[r::2]) for r in range(2)]
        features = [
            tiny.Features(part, policy, scored=scored[own], recomputes=recomputes)
            for part, own in parts
        ]
        credits = tiny.on_ranks(
            2, lambda ranks: build().assign(parts[ranks.rank][0], features[ranks.rank], ranks)
        )
        actual = torch.zeros_like(expected)
        for (_, own), credit in zip(parts, credits, strict=True):
            actual[own] = credit.coefficients
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_the_scale_of_the_first_step_is_kept(tiny):
    policy = tiny.Policy()
    method = build(gamma="fixed", fixed_gamma="first_step")
    first, second = tiny.batch((4, 4)), tiny.batch((4, 3))
    tiny.assign(method, first, policy)
    kept = method.state["gamma"]
    credit = tiny.assign(method, second, policy)
    assert method.state["gamma"] == kept
    resumed = build(gamma="fixed", fixed_gamma="first_step")
    resumed.state.update(gamma=kept)
    again = tiny.assign(resumed, second, policy)
    torch.testing.assert_close(credit.coefficients, again.coefficients, rtol=1e-9, atol=1e-9)
    alone = tiny.assign(build(gamma="fixed", fixed_gamma="first_step"), second, policy)
    assert (credit.coefficients - alone.coefficients).abs().max() > 1e-6


@pytest.mark.parametrize("select", ["top", "bottom", "random"])
@pytest.mark.parametrize("size", [1, 2])
def test_selection_by_lambda(tiny, select, size):
    policy, batch = tiny.Policy(), tiny.batch((4, 4, 3))
    batch.advantage[batch.group_id == 100] = 0
    c = tiny.assign(build(), batch, policy).coefficients
    owners = [random.randrange(size) for _ in range(batch.num_sequences)]
    own, _ = tiny.assign_on_ranks(build(select=select, share=0.4), batch, policy, owners, size)
    member = batch.token_advantage != 0
    kept = own != 0
    assert not kept[~member].any()
    assert int(kept.sum()) == math.ceil(0.4 * int(member.sum()))
    torch.testing.assert_close(own[kept], c[kept], rtol=1e-9, atol=1e-9)
    if select != "random":
        dropped = c[member & ~kept]
        assert (
            (c[kept].min() >= dropped.max())
            if select == "top"
            else (c[kept].max() <= dropped.min())
        )
