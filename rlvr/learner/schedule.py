"""The learning rate of every optimizer step."""

import math

from rlvr.config import LearnerConfig, Schedule, TrainConfig


def learning_rate(learner: LearnerConfig, train: TrainConfig, made: int) -> float:
    """Of the optimizer step after ``made`` of them.

    Rises in a line over ``warmup_steps``, then stays, or falls to ``min_lr`` at the last step of
    the run, in a line or along half a cosine. Steps that were skipped are not made.
    """
    warmed = min(1.0, (made + 1) / max(learner.warmup_steps, 1))
    if learner.schedule == Schedule.constant:
        return warmed * learner.lr
    first, last = learner.warmup_steps, optimizer_steps(train) - 1
    passed = min(1.0, max(0.0, (made - first) / max(last - first, 1)))
    if learner.schedule == Schedule.cosine:
        passed = (1.0 - math.cos(math.pi * passed)) / 2.0
    return warmed * (learner.lr - passed * (learner.lr - learner.min_lr))


def optimizer_steps(train: TrainConfig) -> int:
    """Of the whole run."""
    mini_batches = train.prompts_per_step // (
        train.prompts_per_mini_batch or train.prompts_per_step
    )
    return train.steps * mini_batches * train.epochs_per_step
