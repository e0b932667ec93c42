"""OAR: the reshaping, and both kinds of scores against one response and position at a time."""

from __future__ import annotations

import asyncio
import math
import random
import statistics

import numpy as np
import pytest
import torch

from rlvr.algorithm.credit import CREDITS, SoloRanks
from rlvr.algorithm.credit.oar import bilevel_weights, rank_correlation
from rlvr.algorithm.credit.oar_outcome import outcome_divergence
from rlvr.algorithm.credit.oar_p import chosen_positions, coarse_divergence, interpolated
from rlvr.errors import ConfigError
from rlvr.types import (
    CreditInputs,
    Group,
    Outcome,
    Prompt,
    Response,
    Sample,
    TokenChoices,
    Turn,
    Verdict,
)

MODES = ["first", "last", "answer_mean", "answer_joint"]


def bilevel(scores, quantile=0.25, beta=1.0, floor=0.1, preserve_mass=True):
    """The definition, position by position."""
    log = torch.log1p(torch.tensor(scores, dtype=torch.float64)).tolist()
    width = (max(log) - min(log)) or 1.0
    m = [(x - min(log)) / width for x in log]
    at = quantile * (len(m) - 1)
    ordered = sorted(m)
    k = int(at)
    tau = ordered[k] + (at - k) * (ordered[min(k + 1, len(m) - 1)] - ordered[k])
    w = []
    for x in m:
        if x < tau:
            w.append(max(x / tau, floor))
        else:
            w.append(1 + (beta * (x - tau) / (1 - tau) if tau < 1 else 0.0))
    scale = len(w) / sum(w) if preserve_mass else 1.0
    return torch.tensor([x * scale for x in w], dtype=torch.float64)


@pytest.mark.parametrize(
    "options", [{}, {"quantile": 0.6, "beta": 0.5}, {"floor": 0.4, "preserve_mass": False}]
)
def test_bilevel_weights_equal_the_definition(seed, options):
    for length in (1, 2, 3, 17, 60):
        scores = torch.rand(length, dtype=torch.float64) ** 4 * 10
        weights = bilevel_weights(scores, **options)
        torch.testing.assert_close(
            weights, bilevel(scores.tolist(), **options), rtol=1e-9, atol=1e-9
        )
        if options.get("preserve_mass", True):
            assert float(weights.sum()) == pytest.approx(length)


def test_bilevel_weights_of_special_scores(seed):
    flat = torch.full((9,), random.random(), dtype=torch.float64)
    assert (bilevel_weights(flat) == 1).all()
    assert (bilevel_weights(0 * flat) == 1).all()
    assert len(bilevel_weights(flat[:0])) == 0
    most_at_top = torch.tensor([0.0, 1, 1, 1, 1]).double()  # τ = 1
    torch.testing.assert_close(bilevel_weights(most_at_top), bilevel([0.0, 1, 1, 1, 1]))
    half = bilevel_weights(torch.rand(50).bfloat16())
    assert half.dtype == torch.float32 and half.isfinite().all()
    scores = torch.rand(40).double()
    weights = bilevel_weights(scores)
    assert (weights[scores.argsort()].diff() >= 0).all()


def test_rank_correlation(seed):
    x = torch.randn(30).double()
    assert rank_correlation(x, x.exp()) == pytest.approx(1)
    assert rank_correlation(x, -(x**3)) == pytest.approx(-1)
    y = (x + torch.randn(30)).double().round(decimals=0)  # ties

    def ranks(z):
        return [statistics.mean(k for k, u in enumerate(sorted(z)) if u == v) for v in z]

    a, b = ranks(x.tolist()), ranks(y.tolist())
    assert rank_correlation(x, y) == pytest.approx(statistics.correlation(a, b))
    assert rank_correlation(x, torch.zeros(30)) != rank_correlation(x, torch.zeros(30))


def draw(tiny, **options):
    """Longer responses, most of them with an answer before their end."""
    batch = tiny.batch((4, 3, 4), lengths=[random.randint(4, 9) for _ in range(11)], **options)
    spans = []
    for length in batch.response_length.tolist():
        begin = random.randint(1, length - 2)
        spans.append([begin, random.randint(begin + 1, length)])
    spans[1], spans[2] = [-1, -1], [0, 2]  # no answer; nothing but the answer
    gold = torch.full((11, 3), -1)
    for row in gold:
        size = random.randint(1, 3)
        row[:size] = torch.randint(1, 13, (size,))
    first = {g: i for i, g in reversed(list(enumerate(batch.group_id.tolist())))}
    gold = gold[[first[g] for g in batch.group_id.tolist()]]  # one for a group
    inputs = {"answer_span": torch.tensor(spans), "reference_answer": gold}
    return tiny.replace(batch, inputs=CreditInputs(inputs))


def sequence(batch, i, target):
    """(token ids up to the end of the answer, places of the reasoning, answer ids)"""
    whole = batch.input_ids[batch.cu_seqlens[i] : batch.cu_seqlens[i + 1]].tolist()
    own = batch.token_index[batch.sequence_id == i].tolist()
    places = [at - int(batch.cu_seqlens[i]) for at in own]
    begin, end = batch.inputs.sequence["answer_span"][i].tolist()
    answer = [whole[at] for at in places[begin:end]]
    if target == "reference":
        answer = [y for y in batch.inputs.sequence["reference_answer"][i].tolist() if y >= 0]
    return whole[: places[begin]] + answer, places[:begin], answer


def outcome(policy, embeddings, answer, mode, temperature):
    """Of one sequence that ends with its answer."""
    hidden = policy.sequence(embeddings, torch.arange(len(embeddings)))
    logits = hidden @ policy.weight.detach().T / temperature
    if mode == "last":
        return logits[-1].log_softmax(-1)
    if mode == "first":
        return logits[-len(answer) - 1].log_softmax(-1)
    predicting = logits[-len(answer) - 1 : -1]
    if mode == "answer_mean":
        return predicting.mean(0).log_softmax(-1)
    log_p = predicting.log_softmax(-1)
    return sum(log_p[k, y] for k, y in enumerate(answer)) / len(answer)


def divergence(clean, changed):
    if clean.dim() == 0:
        return clean - changed
    return sum(torch.exp(a) * (a - b) for a, b in zip(clean, changed, strict=True))


def eligible(batch):
    """Sequences with an answer after some reasoning, in groups with spread."""
    for i in range(batch.num_sequences):
        own = batch.reward[batch.group_id == batch.group_id[i]]
        if batch.inputs.sequence["answer_span"][i, 0] > 0 and own.min() != own.max():
            yield i


def perturbed(policy, batch, i, mode, target, temperature):
    """s_t by one forward pass per position."""
    ids, places, answer = sequence(batch, i, target)
    with torch.no_grad():
        clean = outcome(policy, policy.embedding[ids], answer, mode, temperature)
        scores = []
        for at in places:
            changed = list(ids)
            changed[at] = policy.pad_token_id
            other = outcome(policy, policy.embedding[changed], answer, mode, temperature)
            scores.append(max(float(divergence(clean, other)), 0.0))
    return scores


def first_token(batch, i):
    return int(batch.response_length[:i].sum())


def build(name, **options):
    return CREDITS.build({"name": name, **options}, "credit")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("target", ["own", "reference"])
def test_oar_p_equals_one_forward_per_position(tiny, mode, target):
    policy, batch = tiny.Policy(), draw(tiny)
    method = build("oar_p", mode=mode, target=target, tokens_per_chunk=37)
    credit = tiny.assign(method, batch, policy, temperature=0.8)
    expected = torch.ones(batch.num_response_tokens, dtype=torch.float64)
    for i in eligible(batch):
        scores = perturbed(policy, batch, i, mode, target, 0.8)
        at = first_token(batch, i)
        expected[at : at + len(scores)] = bilevel(scores)
    torch.testing.assert_close(credit.coefficients, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("saliency", ["product", "grad_norm"])
def test_oar_g_equals_autograd_of_one_response(tiny, mode, saliency, monkeypatch):
    policy, batch = tiny.Policy(), draw(tiny)
    seen = {}
    drawn = torch.randn

    def recorded(shape, **options):
        x = drawn(shape, **options)
        seen[options["generator"].initial_seed()] = x
        return x

    monkeypatch.setattr(torch, "randn", recorded)
    method = build("oar_g", mode=mode, saliency=saliency, noise=0.05, tokens_per_chunk=25)
    credit = tiny.assign(method, batch, policy, temperature=0.8)
    monkeypatch.undo()

    noises = iter(seen.values())
    expected = torch.ones(batch.num_response_tokens, dtype=torch.float64)
    for i in eligible(batch):
        ids, places, answer = sequence(batch, i, "own")
        e = policy.embedding[ids].detach().requires_grad_()
        noise = torch.zeros_like(e)
        noise[places] = 0.05 * next(noises)
        clean = outcome(policy, e.detach(), answer, mode, 0.8).detach()
        j = divergence(clean, outcome(policy, e + noise, answer, mode, 0.8))
        (gradient,) = torch.autograd.grad(j, e)
        scores = []
        for t in places:
            product = abs(float((gradient[t] * e[t].detach()).sum()))
            scores.append(product if saliency == "product" else float(gradient[t].norm()))
        at = first_token(batch, i)
        expected[at : at + len(scores)] = bilevel(scores)
    torch.testing.assert_close(credit.coefficients, expected, rtol=1e-9, atol=1e-9)
    assert len({x.flatten()[0].item() for x in seen.values()}) == len(seen)


def test_oar_g_leaves_parameter_gradients_alone(tiny):
    policy, batch = tiny.Policy(), draw(tiny)
    for k, parameter in enumerate(policy.parameters):
        parameter.grad = None if k % 2 else torch.randn_like(parameter)
    before = [None if p.grad is None else p.grad.clone() for p in policy.parameters]
    with torch.no_grad():
        credit = tiny.assign(build("oar_g"), batch, policy)
    assert not credit.coefficients.requires_grad
    for parameter, gradient in zip(policy.parameters, before, strict=True):
        if gradient is None:
            assert parameter.grad is None
        else:
            assert torch.equal(parameter.grad, gradient)


@pytest.mark.parametrize("name", ["oar_p", "oar_g"])
@pytest.mark.parametrize("size", [2, 3])
def test_any_number_of_ranks_and_packing_gives_the_same(tiny, name, size):
    policy, batch = tiny.Policy(), draw(tiny)
    whole = tiny.assign(build(name, check_responses=99), batch, policy)
    owners = [random.randrange(max(size - 1, 2)) for _ in range(batch.num_sequences)]
    method = build(name, check_responses=99, tokens_per_chunk=random.randint(5, 60))
    coefficients, credits = tiny.assign_on_ranks(method, batch, policy, owners, size)
    torch.testing.assert_close(coefficients, whole.coefficients, rtol=1e-9, atol=1e-9)
    assert credits[0].metrics == pytest.approx(whole.metrics, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", ["oar_p", "oar_g"])
def test_mass_is_kept_per_response_and_outside_the_reasoning_it_is_one(tiny, name):
    policy, batch = tiny.Policy(), draw(tiny)
    c = tiny.assign(build(name), batch, policy).coefficients
    sums = torch.zeros(batch.num_sequences).double().index_add(0, batch.sequence_id, c)
    torch.testing.assert_close(sums, batch.response_length.double())
    chosen = set(eligible(batch))
    for i in range(batch.num_sequences):
        own = c[batch.sequence_id == i]
        assert (
            own[int(batch.inputs.sequence["answer_span"][i, 0]) if i in chosen else 0 :] == 1
        ).all()


@pytest.mark.parametrize("name", ["oar_p", "oar_g"])
def test_no_answer_or_no_spread_costs_nothing(tiny, name):
    policy = tiny.Policy()
    for change in ("spread", "answer", "gradient"):
        batch = draw(tiny)
        scored = torch.ones(batch.num_response_tokens, dtype=torch.bool)
        if change == "spread":
            batch = tiny.replace(batch, reward=torch.ones(11).double())
        elif change == "answer":
            nowhere = {"answer_span": torch.full((11, 2), -1)}
            batch = tiny.replace(batch, inputs=CreditInputs(nowhere))
        else:
            scored[:] = False
        features = tiny.Features(batch, policy, scored=scored)
        credit = build(name).assign(batch, features, SoloRanks())
        assert (credit.coefficients == 1).all() and policy.forwards == 0


@pytest.mark.parametrize("name", ["oar_p", "oar_g"])
def test_missing_answers_are_reported(tiny, name):
    policy, batch = tiny.Policy(), tiny.batch()
    with pytest.raises(ValueError, match="answer_span"):
        tiny.assign(build(name), batch, policy)
    batch = draw(tiny)
    span = {"answer_span": batch.inputs.sequence["answer_span"]}
    batch = tiny.replace(batch, inputs=CreditInputs(span))
    with pytest.raises(ValueError, match="reference_answer"):
        tiny.assign(build(name, target="reference"), batch, policy)


def test_some_positions_and_interpolation(tiny):
    assert chosen_positions(10, 1, None).tolist() == list(range(10))
    assert chosen_positions(10, 4, None).tolist() == [0, 4, 8, 9]
    assert chosen_positions(1, 4, 2).tolist() == [0]
    assert chosen_positions(101, 1, 5).tolist() == [0, 25, 50, 75, 100]
    at = torch.tensor([0, 4, 5, 9])
    scores = torch.tensor([1.0, 3.0, 0.0, 8.0]).double()
    assert interpolated(scores, at, 10).tolist() == [1, 1.5, 2, 2.5, 3, 0, 2, 4, 6, 8]

    policy, batch = tiny.Policy(), draw(tiny)
    exact = tiny.assign(build("oar_p", check_responses=99), batch, policy)
    assert exact.metrics["rank_correlation"] == pytest.approx(1)
    coarse = tiny.assign(build("oar_p", stride=2, check_responses=99), batch, policy)
    correlations = []
    for i in eligible(batch):
        scores = perturbed(policy, batch, i, "first", "own", 1.0)
        positions = chosen_positions(len(scores), 2, None)
        some = torch.tensor(scores, dtype=torch.float64)[positions]
        expected = bilevel(interpolated(some, positions, len(scores)).tolist())
        at = first_token(batch, i)
        own = coarse.coefficients[at : at + len(scores)]
        torch.testing.assert_close(own, expected, rtol=1e-9, atol=1e-9)
        told = interpolated(some, positions, len(scores))
        correlations.append(rank_correlation(told, torch.tensor(scores, dtype=torch.float64)))
    known = [x for x in correlations if not math.isnan(x)]
    assert coarse.metrics["rank_correlation"] == pytest.approx(sum(known) / len(known))


def test_coarse_divergence(seed):
    p, q = torch.randn(2, 50).double().log_softmax(-1)
    full = float((p.exp() * (p - q)).sum())
    assert float(coarse_divergence(p, q[None])) == pytest.approx(full, rel=1e-5)
    order = p.argsort(descending=True)
    lower = [float(coarse_divergence(p[order[:k]], q[None, order[:k]])) for k in range(1, 51)]
    assert all(a <= b + 1e-6 for a, b in zip(lower, [*lower[1:], full], strict=True))
    assert float(coarse_divergence(p[:7], p[None, :7])) == 0
    top = order[0]
    a, b = float(p[top].exp()), float(q[top].exp())
    two = a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b))
    assert lower[0] == pytest.approx(two, rel=1e-5)


def as_groups(batch):
    """The batch as the driver holds it, response i as sample i; groups stay together."""
    groups = []
    for g in dict.fromkeys(batch.group_id.tolist()):
        responses, verdicts, prompt = [], [], []
        for i in torch.nonzero(batch.group_id == g)[:, 0].tolist():
            whole = batch.input_ids[batch.cu_seqlens[i] : batch.cu_seqlens[i + 1]].numpy()
            own = (batch.token_index[batch.sequence_id == i] - batch.cu_seqlens[i]).numpy()
            n = len(own)
            prompt = whole[: int(batch.prompt_length[i])].tolist()
            logp, version = np.zeros(n, np.float32), np.zeros(n, np.int32)
            gaps = [t for t in range(1, n) if own[t] > own[t - 1] + 1]
            turns = [Turn(t, whole[own[t - 1] + 1 : own[t]]) for t in gaps]
            turns = (*turns, Turn(n, whole[:0])) if turns else ()
            responses.append(Response(whole[own], logp, version, "stop", turns=turns))
            reward = float(batch.reward[i])
            verdicts.append(Verdict(reward, Outcome.CORRECT if reward else Outcome.INCORRECT))
        gold = batch.inputs.sequence["reference_answer"][batch.group_id == g][0]
        answer = " ".join(str(y) for y in gold.tolist() if y >= 0)
        groups.append(
            Group(
                Prompt(str(g), prompt, "", answer, ""),
                [Sample(r, "", v) for r, v in zip(responses, verdicts, strict=True)],
            )
        )
    return groups


def with_one_prompt_a_group(tiny, batch):
    """Sequences rebuilt so that a group's responses share their prompt, as the driver has it."""
    groups = as_groups(batch)
    rows = [(len(g.prompt.token_ids), g, s.response) for g in groups for s in g.samples]
    whole = [np.concatenate([g.prompt.token_ids, r.sequence]) for _, g, r in rows]
    lengths = [len(w) for w in whole]
    cu_seqlens = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    return groups, tiny.replace(
        batch,
        input_ids=torch.tensor(np.concatenate(whole)).long(),
        position_ids=torch.cat([torch.arange(w) for w in lengths]),
        cu_seqlens=cu_seqlens,
        prompt_length=torch.tensor([prompt for prompt, _, _ in rows]),
        token_index=torch.cat(
            [
                int(begin) + prompt + torch.from_numpy(r.places)
                for begin, (prompt, _, r) in zip(cu_seqlens, rows, strict=False)
            ]
        ),
    )


class ScriptedDriver:
    """Knows the answers of the batch, and what ``reply`` says to each question."""

    def __init__(self, groups, batch, pad_token_id, longest, reply):
        self.pad_token_id, self.longest, self.reply = pad_token_id, longest, reply
        samples = [s for g in groups for s in g.samples]
        spans = batch.inputs.sequence["answer_span"].tolist()
        self.spans = {id(s): tuple(span) for s, span in zip(samples, spans, strict=True)}
        self.rounds = 0

    def answer_span(self, sample):
        return self.spans[id(sample)]

    def tokenize(self, text):
        return [int(word) for word in text.split()]

    def pieces(self, token_ids):
        raise NotImplementedError

    async def ask(self, questions):
        self.rounds += 1
        return [self.reply(q) for q in questions]

    async def values(self, prefixes, samples):
        raise NotImplementedError


@pytest.mark.parametrize("target", ["own", "reference"])
@pytest.mark.parametrize("top_tokens", [13, 3])
@pytest.mark.parametrize("mode", ["first", "last"])
def test_oar_p_of_engines_that_answer_questions(tiny, mode, target, top_tokens):
    policy = tiny.Policy()
    groups, batch = with_one_prompt_a_group(tiny, draw(tiny))
    options = {"target": target, "stride": 2, "mode": mode}
    method = build("oar_p", engine="rollout", top_tokens=top_tokens, **options)
    longest = sorted(len(sequence(batch, i, target)[0]) for i in eligible(batch))[-2]

    def reply(question):
        assert len(question.token_ids) <= longest
        embeddings = policy.embedding.detach()[question.token_ids]
        log_p = outcome(policy, embeddings, None, "last", 0.8).detach()
        chosen = question.choices
        if isinstance(chosen, int):
            chosen = log_p.argsort(descending=True)[:chosen].tolist()
        return TokenChoices(np.array(chosen), log_p[chosen].numpy())

    driver = ScriptedDriver(groups, batch, policy.pad_token_id, longest, reply)
    inputs = asyncio.run(method.prepare(groups, driver))
    assert driver.rounds == 2
    assert inputs.sequence.keys() == {"answer_span", *(["reference_answer"] * (target != "own"))}
    [scores] = inputs.token.values()
    told = tiny.replace(batch, inputs=inputs)
    credit = tiny.assign(method, told, policy, temperature=0.8)

    expected = torch.ones(batch.num_response_tokens)
    scored, too_long = torch.zeros_like(scores, dtype=torch.bool), 0
    for i in eligible(batch):
        oracle = torch.tensor(perturbed(policy, batch, i, mode, target, 0.8))
        positions = chosen_positions(len(oracle), 2, None)
        at = first_token(batch, i) + positions
        if len(sequence(batch, i, target)[0]) > longest:
            too_long += 1
            continue
        scored[at] = True
        if top_tokens == 13:
            torch.testing.assert_close(scores[at], oracle[positions], rtol=1e-4, atol=1e-5)
        else:
            assert (scores[at] <= oracle[positions] + 1e-5).all()
        own = bilevel(interpolated(scores[at], positions, len(oracle)).tolist())
        expected[at[0] : at[0] + len(own)] = own.float()
    assert torch.equal(scores.isfinite(), scored)
    torch.testing.assert_close(credit.coefficients.float(), expected, rtol=1e-3, atol=1e-3)
    assert credit.metrics["too_long_to_score"] == too_long / len(list(eligible(batch)))


def test_what_the_engines_cannot_tell_is_refused():
    for mode in ("answer_mean", "answer_joint"):
        with pytest.raises(ConfigError, match="engine=rollout needs mode first or last"):
            build("oar_p", engine="rollout", mode=mode)
    for top_tokens in (0, 129):
        with pytest.raises(ConfigError, match="top_tokens must be from 1 to 128"):
            build("oar_p", engine="rollout", top_tokens=top_tokens)


@pytest.mark.parametrize("name", ["oar_p", "oar_g"])
@pytest.mark.parametrize("mode", MODES)
def test_half_precision(tiny, name, mode):
    policy, batch = tiny.Policy(dtype=torch.bfloat16), draw(tiny)
    credit = tiny.assign(build(name, mode=mode, noise=0.1) if name == "oar_g" else
                         build(name, mode=mode), batch, policy)  # fmt: skip
    assert credit.coefficients.dtype == torch.float32
    assert credit.coefficients.isfinite().all() and (credit.coefficients >= 0).all()


def test_divergence_where_the_changed_probability_is_far_larger(seed):
    """e^(log q − log p) overflows float32 beyond 88."""
    for clean, changed in (
        ([0.0, -95, -40], [0.0, 0, -1]),
        ([0.0, -120, -40], [0.0, 0, -1]),
        ([0.0, -300], [-300.0, 0]),
        ((3 * torch.randn(50)).tolist(), (3 * torch.randn(50)).tolist()),
    ):
        p, q = (torch.tensor(x, dtype=torch.float64).log_softmax(-1) for x in (clean, changed))
        exact = float((p.exp() * (p - q)).sum())
        single = [torch.tensor(x).log_softmax(-1)[None] for x in (clean, changed)]
        assert float(outcome_divergence(*single)) == pytest.approx(exact, rel=1e-5)
