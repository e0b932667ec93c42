"""Every advantage-based objective against its formula, all responses in one loop."""

from __future__ import annotations

import math

import pytest
import torch

from rlvr.algorithm.objectives import OBJECTIVES
from rlvr.types import Totals

NAMES = ["grpo", "dr_grpo", "dapo", "gspo", "cispo"]
OPTIONS = {
    "grpo": {"clip_low": 0.3, "clip_high": 0.4, "kl_coefficient": 0.7},
    "dr_grpo": {"clip_low": 0.3, "clip_high": 0.4},
    "dapo": {"clip_low": 0.3, "clip_high": 0.5, "dual_clip": 1.6},
    "gspo": {"clip_low": 0.1, "clip_high": 0.15},
    "cispo": {"clip_high": 0.3},
}
MEAN = {"grpo": "sequence_mean", "gspo": "sequence_mean", "dr_grpo": "constant"}
MEAN |= {"dapo": "token_mean", "cispo": "token_mean"}
FURTHER = [
    {},
    {"aggregation": "token_mean", "kl_coefficient": 0.3},
    {"aggregation": "sequence_mean", "nll_coefficient": 0.2},
    {"aggregation": "constant", "kl_coefficient": 0.1, "nll_coefficient": 0.4},
]
LIMIT = 31


def draw(tiny):
    batch = tiny.batch((4, 3, 5))
    n = batch.num_response_tokens
    batch = tiny.replace(
        batch,
        logp_reference=batch.logp_old + 0.3 * torch.randn(n, dtype=torch.float64),
        importance=torch.rand(n, dtype=torch.float64) * 2,
    )
    logp = batch.logp_old + 0.5 * torch.randn(n, dtype=torch.float64)
    return batch, logp, torch.rand(n, dtype=torch.float64) * 2


def literal(name, logp, batch, c, options):
    """The loss of the whole mini-batch, response by response and token by token."""
    sequences = []
    clipped_tokens = 0
    for i in range(batch.num_sequences):
        at = torch.nonzero(batch.sequence_id == i)[:, 0].tolist()
        a_i = float(batch.advantage[i])
        mean_log = sum(logp[t] - batch.logp_old[t] for t in at) / len(at)
        terms = []
        for t in at:
            a = a_i * float(c[t])
            w = float(batch.importance[t])
            r = torch.exp(logp[t] - batch.logp_old[t])
            if name in ("grpo", "dr_grpo", "dapo"):
                clip = torch.clamp(r, 1 - options["clip_low"], 1 + options["clip_high"])
                clipped_tokens += float(r.detach()) > 1 + options["clip_high"] and a > 0
                term = -torch.min(r * a, clip * a)
                if name == "dapo" and a < 0:
                    term = torch.min(
                        term, torch.tensor(-options["dual_clip"] * a, dtype=torch.float64)
                    )
            elif name == "gspo":
                log_s = logp[t] - logp[t].detach() + mean_log.detach()
                s = torch.exp(log_s)
                clip = torch.clamp(s, 1 - options["clip_low"], 1 + options["clip_high"])
                term = -torch.min(s * a, clip * a)
            else:
                term = -torch.clamp(r, max=1 + options["clip_high"]).detach() * a * logp[t]
            term = term * w
            if options.get("kl_coefficient"):
                x = batch.logp_reference[t] - logp[t]
                term = term + options["kl_coefficient"] * (torch.exp(x) - x - 1)
            if options.get("nll_coefficient") and bool(batch.correct[i]):
                term = term - options["nll_coefficient"] * logp[t]
            terms.append(term)
        sequences.append(terms)
    mean = options.get("aggregation", MEAN[name])
    if mean == "sequence_mean":
        loss = sum(sum(s) / len(s) for s in sequences) / len(sequences)
    elif mean == "constant":
        loss = sum(sum(s) for s in sequences) / (len(sequences) * LIMIT)
    else:
        loss = sum(sum(s) for s in sequences) / sum(len(s) for s in sequences)
    return loss, clipped_tokens


def totals_of(batch):
    groups = len(batch.group_id.unique())
    return Totals(batch.num_response_tokens, batch.num_sequences, groups, LIMIT)


def build(name, **options):
    return OBJECTIVES.build({"name": name, **options}, "objective")


@pytest.mark.parametrize("further", FURTHER, ids=lambda options: "-".join(options))
@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradient_equal_the_formula_whatever_the_micro_batches(tiny, name, further):
    batch, logp, c = draw(tiny)
    options = OPTIONS[name] | further
    free = logp.clone().requires_grad_()
    expected, clipped = literal(name, free, batch, c, options)
    (expected_gradient,) = torch.autograd.grad(expected, free)

    objective = build(name, **options)
    free = logp.clone().requires_grad_()
    loss, clip_high = 0.0, 0.0
    for part in torch.randperm(batch.num_sequences).split(5):
        micro, n = batch.select(part)
        terms = objective.loss(free[n], micro, c[n], totals_of(batch))
        loss = loss + terms.loss
        clip_high += float(terms.metrics["policy/clip_high"].total)
    (gradient,) = torch.autograd.grad(loss, free)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-9)
    if name in ("grpo", "dr_grpo", "dapo"):
        assert clip_high == clipped


def test_gspo_token_form_is_the_sequence_form_without_coefficients(tiny):
    batch, logp, c = draw(tiny)
    batch = tiny.replace(batch, importance=None)
    free = logp.clone().requires_grad_()
    expected = 0.0
    for i in range(batch.num_sequences):
        own = batch.sequence_id == i
        s = (free[own] - batch.logp_old[own]).mean().exp()
        a = batch.advantage[i]
        expected = expected - torch.min(s * a, s.clamp(0.9, 1.15) * a) / batch.num_sequences
    (expected_gradient,) = torch.autograd.grad(expected, free)
    terms = build("gspo", **OPTIONS["gspo"]).loss(free, batch, torch.ones_like(c), totals_of(batch))
    (gradient,) = torch.autograd.grad(terms.loss, free)
    torch.testing.assert_close(terms.loss, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_at_ratio_one_all_are_the_policy_gradient(tiny, name):
    """With c = 1 the gradient is that of −A logp under the method's own mean."""
    batch, _, c = draw(tiny)
    batch = tiny.replace(batch, importance=None)
    free = batch.logp_old.clone().requires_grad_()
    terms = build(name).loss(free, batch, torch.ones_like(c), totals_of(batch))
    (gradient,) = torch.autograd.grad(terms.loss, free)
    length = batch.response_length[batch.sequence_id]
    share = {
        "grpo": 1 / (length * batch.num_sequences),
        "gspo": 1 / (length * batch.num_sequences),
        "dr_grpo": torch.full_like(c, 1 / (batch.num_sequences * LIMIT)),
        "dapo": torch.full_like(c, 1 / batch.num_response_tokens),
        "cispo": torch.full_like(c, 1 / batch.num_response_tokens),
    }[name]
    torch.testing.assert_close(
        gradient, -batch.token_advantage * share.double(), rtol=1e-6, atol=1e-9
    )
    assert terms.metrics["policy/ratio"].value == 1.0


@pytest.mark.parametrize("name", NAMES)
def test_active_are_exactly_the_sequences_with_a_gradient(tiny, name):
    batch, logp, c = draw(tiny)
    batch.advantage[::3] = 0
    c[batch.sequence_id == 1] = 0
    batch.importance[batch.sequence_id == 2] = 0
    # Close to ratio 1, where no clip stops a gradient.
    free = (batch.logp_old + 1e-6 * torch.randn_like(logp)).requires_grad_()
    for options in ({}, {"kl_coefficient": 0.1}, {"nll_coefficient": 0.1}):
        objective = build(name, **options)
        assert objective.needs_reference == ("kl_coefficient" in options)
        terms = objective.loss(free, batch, c, totals_of(batch))
        (gradient,) = torch.autograd.grad(terms.loss, free)
        nonzero = torch.zeros(batch.num_sequences, dtype=torch.bool)
        nonzero[batch.sequence_id[gradient != 0]] = True
        assert torch.equal(objective.active(batch, c), nonzero)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_one_token_responses_and_wild_ratios_stay_finite(tiny, name):
    batch = tiny.batch((3, 2), lengths=[1, 1, 4, 1, 2], dtype=torch.float32)
    totals, c = totals_of(batch), torch.ones(batch.num_response_tokens)
    objective = build(name)
    for logp in (
        batch.logp_old.bfloat16(),
        torch.full_like(batch.logp_old, -1e4).bfloat16(),
        torch.zeros_like(batch.logp_old).bfloat16(),
    ):
        for old in (batch.logp_old, torch.full_like(batch.logp_old, -1e4)):
            free = logp.clone().requires_grad_()
            terms = objective.loss(free, tiny.replace(batch, logp_old=old), c, totals)
            assert terms.loss.dtype == torch.float32 and terms.loss.isfinite()
            (gradient,) = torch.autograd.grad(terms.loss, free)
            assert gradient.isfinite().all()
            assert all(math.isfinite(m.value) for m in terms.metrics.values())


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_a_number_takes_part_and_spoils_the_loss(tiny, name):
    """Left out as if it were 0, it would be lost without a word."""
    batch, logp, c = draw(tiny)
    c[batch.sequence_id == 1] = torch.nan
    batch.advantage[2] = torch.nan
    objective = build(name)
    assert objective.active(batch, c)[1:3].all()
    assert objective.loss(logp, batch, c, totals_of(batch)).loss.isnan()


@pytest.mark.parametrize("name", NAMES)
def test_equal_rewards_give_no_loss_and_no_gradient(tiny, name):
    batch, logp, c = draw(tiny)
    batch = tiny.replace(batch, advantage=torch.zeros_like(batch.advantage))
    free = logp.requires_grad_()
    terms = build(name).loss(free, batch, c, totals_of(batch))
    (gradient,) = torch.autograd.grad(terms.loss, free)
    assert float(terms.loss.detach()) == 0 and (gradient == 0).all()
    assert not build(name).active(batch, c).any()
