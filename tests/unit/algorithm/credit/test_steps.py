"""VinePPO and SPO against their formula, on a task whose values are known in closed form."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import pytest
import torch

from rlvr.algorithm.compatibility import compatible
from rlvr.algorithm.credit import CREDITS, Driver
from rlvr.algorithm.credit.vine import line_starts
from rlvr.types import Group, Outcome, Prompt, Response, Sample, Verdict

TEXTS = ["a", "b.", "\n", " c", "\n\n", "d\n", " ", "\ne", ".\nf", "  \n", ""]


class Additive:
    """Tokens are worth their number; what is to come is worth 5 for each that is still missing.

    The value of a beginning is known. Continuations scatter around it and mean it exactly.
    """

    pad_token_id, longest, length = 0, 99, 12

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[int, ...]]] = []

    def value(self, prompt: Prompt, ids) -> float:
        return sum(ids) + 5.0 * (self.length - len(ids)) + len(prompt.token_ids)

    def pieces(self, token_ids):
        return [TEXTS[i % len(TEXTS)] for i in token_ids]

    def answer_span(self, sample):
        raise NotImplementedError

    def tokenize(self, text):
        raise NotImplementedError

    async def ask(self, questions):
        raise NotImplementedError

    async def values(self, prefixes, samples):
        self.asked += [(p.prompt.id, tuple(p.token_ids)) for p in prefixes]
        noise = [np.random.randn(samples) for _ in prefixes]
        return [
            self.value(p.prompt, p.token_ids) + x - x.mean()
            for p, x in zip(prefixes, noise, strict=True)
        ]


def steps_of(text: str) -> list[int]:
    """Which step every character is of: lines with something in them, and the blank ones before."""
    of, step, filled, ended = [], 0, False, False
    for at, character in enumerate(text):
        ended = ended or (character == "\n" and filled)
        if ended and character == "\n" and text[at:].strip():
            step, filled, ended = step + 1, False, False
        filled = filled or not character.isspace()
        of.append(step)
    return of


def test_lines(seed):
    for _ in range(200):
        pieces = [random.choice(TEXTS) for _ in range(random.randint(1, 12))]
        of = steps_of("".join(pieces))
        found, last = [], -1
        for t in range(len(pieces)):
            at = len("".join(pieces[:t]))
            own = of[min(at, len(of) - 1)] if of else 0
            if own != last:
                found.append(t)
            last = own
        assert line_starts(pieces) == found, pieces


def draw(lengths):
    """Groups of responses with these lengths, and a batch that has them in another order."""
    groups = []
    for g, own in enumerate(lengths):
        prompt = Prompt(f"p{g}", [1] * random.randint(1, 4), "", "", "exact")
        samples = []
        for n in own:
            ids = np.array([random.randrange(11) for _ in range(n)], np.int32)
            logp = np.log(np.random.uniform(0.5, 1.0, n)).astype(np.float32)
            response = Response(ids, logp, ids, "stop")
            samples.append(Sample(response, "", Verdict(float(ids.sum()), Outcome.CORRECT)))
        groups.append(Group(prompt, samples))
    return groups


def literal(driver, groups, cuts_of):
    """R − V or V − V of the step of each token, one token at a time."""
    result = []
    for group in groups:
        for sample in group.samples:
            ids = sample.response.token_ids.tolist()
            cuts = cuts_of(sample)
            for t in range(len(ids)):
                j = max((k for k in range(len(cuts)) if cuts[k] <= t), default=None)
                if j is None:
                    result.append(0.0)
                    continue
                before = driver.value(group.prompt, ids[: cuts[j]])
                if j + 1 < len(cuts):
                    result.append(driver.value(group.prompt, ids[: cuts[j + 1]]) - before)
                else:
                    result.append(sample.verdict.reward - before)
    return torch.tensor(result, dtype=torch.float64)


OPTIONS = [
    {},
    {"whiten": False},
    {"segment": "tokens", "every": 3},
    {"segment": "tokens", "every": 2, "max_steps": 3, "whiten": False},
]


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("size", [1, 3])
def test_advantage_is_the_change_of_the_value(tiny, options, unit, size):
    lengths = [[random.randint(1, 11) for _ in range(4)] for _ in range(3)]
    groups, driver = draw(lengths), Additive()
    assert isinstance(driver, Driver)
    method = CREDITS.build({"name": "vine", "samples": 7, **options}, "credit")

    def cuts_of(sample):
        ids = sample.response.token_ids.tolist()
        if options.get("segment") == "tokens":
            return list(range(0, len(ids), options["every"]))[: options.get("max_steps")]
        return line_starts(driver.pieces(ids))

    expected = literal(driver, groups, cuts_of)
    flat = [n for own in lengths for n in own]
    batch = tiny.batch((4, 4, 4), lengths=flat)
    if unit:
        batch = tiny.replace(batch, advantage=torch.ones_like(batch.advantage))
    else:
        batch.advantage[batch.group_id == batch.group_id[0]] = 0
    inputs = asyncio.run(method.prepare(groups, driver))
    assert len(set(driver.asked)) == len(driver.asked), "equal beginnings are sampled from once"
    batch = tiny.replace(batch, inputs=inputs)
    a = batch.token_advantage
    if method.whiten:
        own = expected[a != 0]
        expected = (expected - own.mean()) / (own.var() + 1e-8).sqrt()
    owners = [random.randrange(size) for _ in flat]
    c, credits = tiny.assign_on_ranks(method, batch, tiny.Policy(), owners, size)
    torch.testing.assert_close((a * c)[a != 0], expected[a != 0], rtol=1e-4, atol=1e-4)
    assert (c[a == 0] == 1).all() and (c < 0).any()
    steps = sum(len(cuts_of(s)) for g in groups for s in g.samples)
    assert credits[0].metrics["steps_per_response"] == pytest.approx(steps / len(flat))


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("whiten", [True, False])
@pytest.mark.parametrize("size", [1, 3])
def test_spo_gives_the_advantage_of_a_segment_to_its_cutpoints(tiny, mask, whiten, size):
    lengths = [[random.randint(1, 11) for _ in range(4)] for _ in range(3)]
    groups, driver, every = draw(lengths), Additive(), random.randint(1, 4)
    options = {"mask": mask, "whiten": whiten, "every": every, "threshold": 0.8}
    method = CREDITS.build({"name": "spo", **options}, "credit")
    logp = [np.array(s.response.logp_rollout) for g in groups for s in g.samples]
    logp = torch.from_numpy(np.concatenate(logp)).double()

    def cuts_of(sample):
        p = np.exp(sample.response.logp_rollout)
        return [t for t in range(len(p)) if p[t] < 0.8][::every]

    expected = literal(driver, groups, cuts_of)
    batch = tiny.batch((4, 4, 4), lengths=[n for own in lengths for n in own])
    batch.advantage[batch.group_id == batch.group_id[0]] = 0
    inputs = asyncio.run(method.prepare(groups, driver))
    batch = tiny.replace(batch, inputs=inputs, logp_rollout=logp)
    a = batch.token_advantage
    left = (a != 0) & ((logp.exp() < 0.8) | (not mask))
    if whiten:
        own = expected[left]
        expected = (expected - own.mean()) / (own.var() + 1e-8).sqrt()
    owners = [random.randrange(size) for _ in range(12)]
    c, _ = tiny.assign_on_ranks(method, batch, tiny.Policy(), owners, size)
    assert (c[(a != 0) & ~left] == 0).all() and (c[a == 0] == 1).all()
    # The mean over all tokens that teach is the mean over the cutpoints.
    weights = torch.rand(len(c), dtype=torch.float64)
    mean = (weights * a * c)[a != 0].mean()
    torch.testing.assert_close(mean, (weights * expected)[left].mean(), rtol=1e-4, atol=1e-4)
    scale = float((a != 0).sum() / left.sum())
    torch.testing.assert_close((a * c)[left], expected[left] * scale, rtol=1e-4, atol=1e-4)


def test_groups_with_equal_rewards_can_be_left_out():
    groups, driver = draw([[3, 3], [2, 4]]), Additive()
    for sample in groups[0].samples:
        object.__setattr__(sample, "verdict", Verdict(1.0, Outcome.CORRECT))
    object.__setattr__(groups[1].samples[0], "verdict", Verdict(-1.0, Outcome.INCORRECT))
    method = CREDITS.build({"name": "vine", "equal_groups": False}, "credit")
    inputs = asyncio.run(method.prepare(groups, driver))
    assert {prompt for prompt, _ in driver.asked} == {"p1"}
    assert not inputs.token["step_advantage"][:6].any()
    assert inputs.token["step_advantage"][6:].any()


def test_what_it_goes_with():
    assert compatible("vine", "dapo", "unit") is None is compatible("vine", "gspo", "grpo")
    assert "real" in compatible("vine", "real")
    assert "reinforce both" in compatible("vine", "dapo", "unit", {"name": "constant", "value": 0})
    assert compatible("vine", "dapo", "grpo", "linear") is None
    assert "advantage 'unit'" in compatible("delta", "dapo", "unit")
    beside = {"name": "product", "of": ["vine", "entropy_top"]}
    assert compatible(beside, "dapo", "unit") is None and compatible(beside, "real") is not None
