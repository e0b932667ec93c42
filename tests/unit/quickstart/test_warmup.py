"""The warm-up learns, stops where it should, and measures what it claims."""

from __future__ import annotations

import random
from itertools import cycle, islice

import pytest
import torch

from rlvr.errors import WarmUpError
from rlvr.quickstart import warmup
from rlvr.quickstart.arithmetic import Writer, additions, corpus, work_out
from rlvr.quickstart.model import build_model
from rlvr.quickstart.tokenizer import build_tokenizer
from rlvr.quickstart.warmup import Skill, warm_up


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_only_solutions_carry_a_loss(tokenizer):
    solved = [("123+456", "9;"), ("478+365", "13;14;8;")]
    lessons = [warmup._lesson(*pair, tokenizer) for pair in solved]
    ids, labels = warmup._batch(lessons, tokenizer)
    assert ids.shape == labels.shape
    for text, row, label in zip(["9;", "13;14;8;"], ids, labels, strict=True):
        carries = label != -100
        assert tokenizer.decode(row[carries]) == text + "<eos>"
        assert torch.equal(row[carries], label[carries])
    assert tokenizer.decode(ids[0]) == "123+456\n9;<eos>" + "<pad>" * 6


def test_a_model_that_learnt_a_few_problems_by_heart_is_measured_as_such(tokenizer, seed):
    rng = random.Random(seed)
    problems = list(islice(additions(rng, set()), 8))
    known = problems[:4]
    model = build_model(tokenizer)
    assert warmup.measure(model, tokenizer, problems).accuracy == 0.0

    pairs = [(p.problem, work_out(p, Writer(), rng)) for p in known]
    lessons = [warmup._lesson(*pair, tokenizer) for pair in pairs]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(60):
        warmup._train(model, optimizer, 1e-3, warmup._batch(lessons, tokenizer))
    skill = warmup.measure(model, tokenizer, known)
    assert skill.accuracy == 1.0
    assert skill.avg_at_8 > 0.9 and skill.pass_at_8 == 1.0
    assert warmup.measure(model, tokenizer, problems).accuracy == pytest.approx(0.5, abs=0.13)


@pytest.fixture
def skills(monkeypatch):
    """Replace batches and training by nothing, every measurement by the next of a list."""

    def replace(*values):
        following = cycle(values)
        monkeypatch.setattr(warmup, "_batch", lambda *_: None)
        monkeypatch.setattr(warmup, "_train", lambda *_: 0.0)
        monkeypatch.setattr(warmup, "measure", lambda *_: next(following))

    return replace


def run(tokenizer):
    rng = random.Random(0)
    problems = additions(rng, set())
    return warm_up(build_model(tokenizer), tokenizer, corpus(problems, rng), [])


def test_it_stops_as_soon_as_the_skill_is_enough(tokenizer, skills):
    good = Skill(accuracy=0.3, avg_at_8=0.3, pass_at_8=0.7)
    skills(good)
    assert run(tokenizer).steps == 200
    skills(Skill(0.1, 0.1, 0.7), Skill(0.3, 0.1, 0.2), good)
    result = run(tokenizer)
    assert result.steps == 280 and result.skill == good


@pytest.mark.parametrize(
    "skill", [Skill(0.1, 0.1, 0.9), Skill(0.3, 0.1, 0.1), Skill(0.6, 0.5, 0.9)]
)
def test_a_base_model_outside_of_the_window_is_an_error(tokenizer, skills, skill):
    skills(skill)
    with pytest.raises(WarmUpError, match=f"{skill.accuracy:.0%}.*--seed"):
        run(tokenizer)


def test_the_learning_rate_rises_falls_and_stays():
    rates = [warmup._learning_rate(step, 200) for step in range(300)]
    peak = rates.index(max(rates))
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[200:] == [pytest.approx(0.05 * warmup._LR)] * 100
