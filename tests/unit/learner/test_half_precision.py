"""Credit in bfloat16, as runs have it: the real policy and features against the definitions.

The oracles take what half precision gives, the hidden states and the logits of the policy rounded
to bfloat16, and compute with it in float64. What may differ is float32: sums, and log p of a token,
a difference of two numbers near the largest logit.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import Qwen3Config, Qwen3ForCausalLM

from rlvr.algorithm.credit import CREDITS, SoloRanks
from rlvr.algorithm.credit.agreement import gradient_cosines
from rlvr.algorithm.credit.groups import GroupedResponses
from rlvr.algorithm.credit.oar import rank_correlation
from rlvr.algorithm.credit.oar_segments import segments
from rlvr.algorithm.credit.thr_stream import StreamedScores
from rlvr.algorithm.objectives import OBJECTIVES
from rlvr.config import LearnerConfig, ModelConfig
from rlvr.learner.batching import rank_batches
from rlvr.learner.features import LentPolicy, ScoringFeatures
from rlvr.learner.policy import load_policy
from rlvr.types import (
    CreditInputs,
    Group,
    Outcome,
    Packing,
    Prompt,
    Response,
    Sample,
    Totals,
    Verdict,
)

TEMPERATURE = 0.8
VOCABULARY = 60
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """Confident: its head is stretched until top logits lie far beyond 10."""
    folder = tmp_path_factory.mktemp("confident")
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=False,
        initializer_range=0.3,
    )
    torch.manual_seed(5)
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight *= 8
    model.bfloat16().save_pretrained(folder)
    settings = ModelConfig(path=str(folder), dtype="bfloat16")
    return load_policy(settings, LearnerConfig(logits_mib=1), TEMPERATURE, CPU)


@torch.no_grad()
def continued(policy, ids: list[int], count: int) -> list[int]:
    """``count`` tokens, most of them the most probable ones."""
    for _ in range(count):
        hidden = policy.hidden(Packing.of([torch.tensor(ids)]))[-1]
        likely = int((hidden @ policy.head.weight.T).argmax())
        other = int(torch.randint(1, VOCABULARY, ()))
        ids = [*ids, likely if torch.rand(()) < 0.8 else other]
    return ids[-count:]


@pytest.fixture
def scored(policy, seed):
    """Two groups of both kinds, their features, and every number in float64."""
    groups = []
    for g in range(2):
        prompt = torch.randint(1, VOCABULARY, (4,)).tolist()
        samples = []
        for i in range(4):
            ids = np.array(continued(policy, prompt, int(torch.randint(8, 16, ()))), np.int32)
            zeros = np.zeros(len(ids), np.float32)
            outcome = Outcome.CORRECT if i % 2 else Outcome.INCORRECT
            response = Response(ids, zeros, zeros.astype(np.int32), "stop")
            samples.append(Sample(response, "", Verdict(float(i % 2), outcome)))
        groups.append(Group(Prompt(str(g), prompt, "", "", ""), samples))
    lengths = [len(s.response.token_ids) for g in groups for s in g.samples]
    spans = torch.tensor([[n - 2, n] for n in lengths])
    advantages = np.tile([-1.0, 1.0, -0.5, 0.5], 2)
    inputs = CreditInputs({"answer_span": spans})
    [batch] = rank_batches(groups, advantages, ranks=1, groups_per_mini_batch=2, inputs=inputs)
    everything = torch.ones(batch.num_response_tokens, dtype=torch.bool)
    lent = LentPolicy(policy, 0)
    features = ScoringFeatures(
        everything, lent, TEMPERATURE, store="device", recompute=lambda: iter(())
    )
    with torch.no_grad():
        statistics, hidden = policy(batch, batch.predict_index, batch.target)
        features.keep(torch.arange(len(hidden)), statistics, hidden)
        logits = (hidden @ policy.head.weight.T).double() / TEMPERATURE
    assert hidden.dtype == torch.bfloat16
    assert float(logits.max(-1).values.median()) > 10
    p = logits.softmax(-1)
    own = p[torch.arange(len(p)), batch.target]
    assert float((own > 0.99).double().mean()) > 0.2, "a confident policy"
    return SimpleNamespace(
        batch=batch, features=features, hidden=hidden.double(), p=p, own=own, policy=policy
    )


def build(name, **options):
    return CREDITS.build({"name": name, **options}, "credit")


def test_log_probabilities(scored):
    torch.testing.assert_close(
        scored.features.logp.double(), scored.own.log(), rtol=1e-5, atol=1e-5
    )
    assert (scored.features.logp <= 1e-5).all()


def test_delta(scored):
    """1 − p of a confident token is known to some 1e-6: a few millionths of its proxy."""
    credit = build("delta").assign(scored.batch, scored.features, SoloRanks())
    v, a = (1 - scored.own)[:, None] * scored.hidden, scored.batch.token_advantage.double()
    weight, sides = a.abs()[:, None], (a > 0, a < 0)
    alpha = torch.ones_like(a)
    for k in range(2):
        w = weight * alpha[:, None]
        plus, minus = ((w * v)[s].sum(0) / w[s].sum() for s in sides)
        d = (((v - minus) ** 2).sum(1) - ((v - plus) ** 2).sum(1)) * a.sign()
        if k == 0:
            gamma = torch.where(
                sides[0], d[sides[0]].std(correction=0), d[sides[1]].std(correction=0)
            )
        alpha = torch.sigmoid(d / gamma)
    lam = 0.8 + 0.4 * alpha
    expected = lam * len(lam) / lam.sum()
    torch.testing.assert_close(credit.coefficients.double(), expected, rtol=1e-4, atol=1e-4)


def literal_thr(scored):
    """THR by the double sum over the group's vocabulary V*, and how far rounding may move it."""
    batch, n = scored.batch, scored.batch.num_response_tokens
    group = batch.group_id[batch.sequence_id]
    correct = batch.correct[batch.sequence_id]
    g = -scored.p.clone()
    g[torch.arange(n), batch.target] += 1
    thr, room = torch.zeros(n).double(), torch.zeros(n).double()
    for k in group.unique():
        member, mine = group == k, torch.nonzero(group == k)[:, 0]
        words = batch.target[member].unique()
        positive = member & correct
        m = g[positive][:, words].T @ scored.hidden[positive]
        push = scored.hidden[mine] @ m.T
        s = (g[mine][:, words] * push).sum(1)
        thr[mine] = torch.where(correct[mine], s, -s)
        # g to 1e-5 of a probability: once in the token's own error, once in those inside of M.
        reach = (scored.hidden[mine] @ scored.hidden[positive].T).abs().sum(1)
        room[mine] = 1e-5 * (push.abs().sum(1) + reach)
    return thr, room


def test_thr_and_nthr(scored):
    batch, features = scored.batch, scored.features
    groups = GroupedResponses.of(batch, features, SoloRanks())
    actual = StreamedScores(batch, features, groups, 64).thr().double()
    expected, room = literal_thr(scored)
    assert ((actual - expected).abs() <= room).all()
    correct, group = batch.correct[batch.sequence_id], batch.group_id[batch.sequence_id]
    for name, score in (
        ("thr", expected.abs()),
        ("nthr", torch.where(correct, expected, -expected)),
    ):
        tau = torch.zeros_like(expected)
        for k in group.unique():
            means = [
                score[batch.sequence_id == i].mean()
                for i in torch.nonzero(batch.correct & (batch.group_id == k))[:, 0]
            ]
            tau[group == k] = min(means)
        if name == "thr":
            literal = torch.where(score > tau, 1 + 0.1 * expected.sign(), 0.0)
        else:  # q = 1/2, so that what is damped gets 0
            literal = torch.where(~correct & (score > tau), 0.0, 1.0)
        c = build(name).assign(batch, features, SoloRanks()).coefficients.double()
        sure = ((score - tau).abs() > 2 * room.max()) & (expected.abs() > 2 * room)
        assert float(sure.double().mean()) > 0.4
        torch.testing.assert_close(c[sure], literal[sure].double(), rtol=1e-6, atol=1e-6)


def test_otb(scored):
    """The energy of a sure token is far below what 1 − 2π + Σπ² has in float32."""
    batch = scored.batch
    credit = build("otb").assign(batch, scored.features, SoloRanks())
    rest = scored.p.clone()
    rest[torch.arange(len(rest)), batch.target] = 0
    energy = rest.sum(1) ** 2 + (rest**2).sum(1)
    assert float((energy < 1e-8).double().mean()) > 0.1
    total = torch.zeros_like(energy)
    position = torch.zeros(len(energy), dtype=torch.long)
    for i in range(batch.num_sequences):
        own = batch.sequence_id == i
        total[own], position[own] = energy[own].cumsum(0), torch.arange(int(own.sum()))
    reward, group = batch.reward[batch.sequence_id].double(), batch.group_id[batch.sequence_id]
    expected = torch.zeros_like(energy)
    for t in range(len(energy)):
        like = (group == group[t]) & (position == position[t])
        baseline = (reward[like] * total[like]).sum() / (total[like].sum() + 1e-8)
        expected[t] = (reward[t] - baseline) / batch.token_advantage[t].double()
    torch.testing.assert_close(credit.coefficients.double(), expected, rtol=1e-3, atol=1e-3)


def outcome(scored, ids, mode, answer):
    """Log-distribution of one sequence by itself."""
    with torch.no_grad():
        hidden = scored.policy.hidden(Packing.of([ids])).double()
    logits = hidden @ scored.policy.head.weight.detach().double().T / TEMPERATURE
    at = {"first": logits[-answer - 1], "last": logits[-1]}
    return (at[mode] if mode in at else logits[-answer - 1 : -1].mean(0)).log_softmax(-1)


@pytest.mark.parametrize("mode", ["first", "last", "answer_mean"])
def test_oar_p(scored, mode):
    """Packed or by itself, a sequence goes through the same products of the same rounded numbers.

    Where a kernel adds them up in another order, an entry of a final state moves by a unit in its
    last place, 2⁻⁸ of it, in every layer before it too; a logit by the root of the sum of their
    squares, and a divergence by some times that, now and then by more. It is 0 to 20 here.
    """
    head = scored.policy.head.weight.detach().double()
    unit = 2**-8 * float((scored.hidden**2 @ head.T**2).sqrt().max()) / TEMPERATURE
    every, exactly = [], []
    method = build("oar_p", mode=mode)
    found = segments(scored.batch, scored.features, SoloRanks(), "own")
    everywhere = [torch.arange(part.reasoning) for part in found]
    scores = method.perturbation_scores(found, everywhere, scored.features, SoloRanks())
    for part, own in zip(found, scores, strict=True):
        clean = outcome(scored, part.token_ids, mode, part.answer)
        exact = []
        for t in range(part.reasoning):
            ids = part.token_ids.clone()
            ids[part.places[t]] = 0
            changed = outcome(scored, ids, mode, part.answer)
            exact.append(float((clean.exp() * (clean - changed)).sum()))
        every.append(own.double())
        exactly.append(torch.tensor(exact).double())
    actual, expected = torch.cat(every), torch.cat(exactly)
    near = (actual - expected).abs() <= 24 * unit
    assert near.double().mean() > 0.95, (actual, expected, unit)
    assert rank_correlation(actual, expected) > 0.9


@pytest.mark.parametrize("mode", ["first", "answer_mean"])
def test_oar_g(scored, mode):
    """The gradient of one response by itself, with the noise that the packed one was given."""
    method = build("oar_g", mode=mode, noise=0.05)
    found = segments(scored.batch, scored.features, SoloRanks(), "own")
    dice = [torch.Generator().manual_seed(k) for k in range(len(found))]
    scores = method.saliency_scores(found, dice, scored.features, SoloRanks())
    head = scored.policy.head.weight.detach().double()
    every, exactly = [], []
    for k, (part, own) in enumerate(zip(found, scores, strict=True)):
        packing = Packing.of([part.token_ids])
        e = scored.policy.embed(part.token_ids).detach().requires_grad_()
        noise = torch.zeros_like(e)
        span = part.places
        generator = torch.Generator().manual_seed(k)
        noise[span] = 0.05 * torch.randn(noise[span].shape, generator=generator, dtype=noise.dtype)
        log_p = []
        for embeddings in (e.detach(), e + noise):
            logits = scored.policy.hidden(packing, embeddings).double() @ head.T / TEMPERATURE
            at = logits[-part.answer - 1 : -1]
            log_p.append((at[0] if mode == "first" else at.mean(0)).log_softmax(-1))
        clean, noisy = log_p[0].detach(), log_p[1]
        (gradient,) = torch.autograd.grad((clean.exp() * (clean - noisy)).sum(), e)
        exact = (gradient.double() * e.detach().double()).sum(1).abs()[span]
        every.append(own.double())
        exactly.append(exact)
    actual, expected = torch.cat(every), torch.cat(exactly)
    # A gradient through half precision; each of its products is rounded to 2⁻⁸, of every layer.
    assert float((actual - expected).norm() / expected.norm()) < 0.5
    assert rank_correlation(actual, expected) > 0.9


@pytest.mark.parametrize("name", ["real", "real_bce", "real_product"])
def test_real(scored, name):
    """Scores s̄ and gradient weights from log-probabilities of the rounded policy."""
    objective = OBJECTIVES.build({"name": name}, "objective")
    batch = scored.batch
    old = scored.own.log() + 0.1 * torch.randn(len(scored.own)).double()
    batch = replace(batch, logp_old=old.float())
    c = torch.rand(len(old))
    mean = objective.mean_log_ratio(scored.features.logp, batch, c)
    exact = torch.zeros(batch.num_sequences).double()
    for i in range(batch.num_sequences):
        own = batch.sequence_id == i
        exact[i] = (c[own].double() * (scored.own[own].log() - old.float()[own].double())).mean()
    torch.testing.assert_close(mean.double(), exact, rtol=1e-5, atol=1e-5)
    totals = Totals(len(old), batch.num_sequences, 2, 16)
    free = exact.clone().requires_grad_()
    literal = 0.0
    for g in range(2):
        s = free[batch.group_id == g] / 0.5
        label = batch.reward[batch.group_id == g] >= 1
        if name == "real_bce":
            y = label.double()
            literal = literal - (y * F.logsigmoid(s) + (1 - y) * F.logsigmoid(-s)).sum() / 8
        else:
            up, down = s[~label].exp().sum(), (-s[label]).exp().sum()
            terms = [1 + up * down] if name == "real_product" else [1 + up, 1 + down]
            literal = literal + sum(x.log() for x in terms) / 2
    (expected,) = torch.autograd.grad(literal, free)
    weights = objective.response_weights(mean, batch.reward, batch.group_id, totals)
    torch.testing.assert_close(weights.double(), expected, rtol=1e-4, atol=1e-6)


def test_covariances(scored):
    """Whom KL-Cov and Clip-Cov hold back; of a sure token log π is known to 1e-5."""
    batch, n = scored.batch, len(scored.own)
    c = torch.rand(n)
    a, x = (batch.token_advantage * c).double(), scored.own.log()
    exact = (x - x.mean()) * (a - a.mean())
    held = OBJECTIVES.build({"name": "kl_cov", "share": 0.2}, "objective")
    own = held.selected(scored.features.logp, batch, c, SoloRanks())
    assert int(own.sum()) == int(0.2 * n)
    least = exact.sort().values[-int(0.2 * n)]
    clear = (exact - least).abs() > 1e-4
    assert torch.equal(own[clear], (exact >= least)[clear])

    low, high = exact.quantile(0.3).item(), exact.quantile(0.9).item()
    node = {"name": "clip_cov", "share": 0.2, "low": low, "high": high}
    batch = replace(batch, logp_old=scored.features.logp)
    own = OBJECTIVES.build(node, "objective").selected(scored.features.logp, batch, c, SoloRanks())
    assert int(own.sum()) == int(0.2 * n)
    assert ((exact[own] > low - 1e-4) & (exact[own] < high + 1e-4)).all()


def test_agreement_of_gradients(scored):
    """Of lm_head, as shadows have it."""
    batch = scored.batch
    g = -scored.p.clone()
    g[torch.arange(len(g)), batch.target] += 1
    weights = [batch.token_advantage * torch.rand(len(g)) ** 3 for _ in range(3)]
    gradients = [((w.double()[:, None] * g).T @ scored.hidden).flatten() for w in weights]
    first, *others = gradients
    expected = [float(first @ other / first.norm() / other.norm()) for other in others]
    found = gradient_cosines(weights, batch, scored.features, SoloRanks())
    assert found == pytest.approx(expected, abs=1e-4)
