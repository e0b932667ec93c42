"""The learning rate, beside torch's own schedules."""

from __future__ import annotations

import pytest
import torch

from rlvr.config import LearnerConfig, Schedule, TrainConfig
from rlvr.learner.schedule import learning_rate, optimizer_steps


def rates(schedule: Schedule, warmup: int, lr: float, min_lr: float, train: TrainConfig):
    learner = LearnerConfig(lr=lr, warmup_steps=warmup, schedule=schedule, min_lr=min_lr)
    return [learning_rate(learner, train, made) for made in range(optimizer_steps(train))]


def test_as_torchs_schedulers_say():
    """Without a warm-up: the last step has the lowest rate."""
    train = TrainConfig(steps=4, prompts_per_step=6, prompts_per_mini_batch=2, epochs_per_step=2)
    assert optimizer_steps(train) == 24
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=23, eta_min=0.03)
    expected = []
    for _ in range(24):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cosine.step()
    assert rates(Schedule.cosine, 0, 0.3, 0.03, train) == pytest.approx(expected)
    line = torch.linspace(0.3, 0.03, 24).tolist()
    assert rates(Schedule.linear, 0, 0.3, 0.03, train) == pytest.approx(line, rel=1e-5)
    assert rates(Schedule.constant, 0, 0.3, 0.03, train) == [0.3] * 24


@pytest.mark.parametrize("schedule", Schedule)
def test_each_begins_with_the_same_warm_up(schedule):
    train = TrainConfig(steps=10, prompts_per_step=8)
    found = rates(schedule, 4, 1.0, 0.1, train)
    assert found[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert found[4] == 1.0
    assert found[-1] == pytest.approx(1.0 if schedule == Schedule.constant else 0.1)
    assert found[4:] == sorted(found[4:], reverse=True)


def test_a_run_that_is_all_warm_up():
    train = TrainConfig(steps=3, prompts_per_step=8)
    assert rates(Schedule.linear, 6, 0.6, 0.0, train) == pytest.approx([0.1, 0.2, 0.3])
