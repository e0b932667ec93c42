"""Updates that were skipped because a number was not finite: told, saved, and not for ever."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from rlvr.config import TrainConfig
from rlvr.errors import LearnerError
from rlvr.learner.group import LearnerGroup
from rlvr.learner.skipped import UpdateInputs
from rlvr.loop.batch import RolloutBatch
from rlvr.telemetry.responses import response_table
from rlvr.telemetry.run_folder import RunFolder, replacing, writing
from rlvr.types import IN_USE, samples_of


class BadUpdates:
    """Looks at what the ranks report of an update."""

    def __init__(self, config: TrainConfig, learners: LearnerGroup) -> None:
        self._most = config.max_bad_updates
        self._folder = RunFolder(config.output_dir)
        self._learners = learners

    async def look(
        self, batch: RolloutBatch, advantages: np.ndarray, metrics: Mapping[str, float]
    ) -> None:
        """Save a batch with a skipped update; LearnerError after ``max_bad_updates`` in a row."""
        if not (skipped := int(metrics["update/skipped"])):
            return
        step = batch.step + 1
        path = self._folder.skipped(step)
        table = batch_table(batch, advantages, await self._learners.update_inputs())
        with writing(path), replacing(path) as temporary:
            parquet.write_table(table, temporary, compression="zstd")
        told = f"the loss or a gradient was not finite. The batch: {path}"
        print(f"step {step}: skipped {skipped} optimizer steps, since {told}", flush=True)
        in_a_row = int(metrics["update/skipped_in_a_row"])
        if 0 < self._most <= in_a_row:
            raise LearnerError(
                f"step {step}: {in_a_row} optimizer steps in a row were skipped "
                f"(train.max_bad_updates={self._most}), since {told}. See which responses have no "
                "finite logp_old or coefficient; lower learner.lr or learner.max_grad_norm, and "
                "go on from the last checkpoint with train.resume=auto."
            )


def batch_table(
    batch: RolloutBatch, advantages: np.ndarray, parts: Sequence[UpdateInputs]
) -> pa.Table:
    """A row per response: those of ``responses/``, and all that the update read of its tokens.

    What no rank has, as ``train.overlong_filter`` left it out, is null.
    """
    responses = [sample.response for sample in samples_of(batch.groups)]
    prompts = [group.prompt.token_ids for group in batch.groups for _ in group.samples]
    columns: dict[str, list[object]] = {
        "prompt_token_ids": [list(ids) for ids in prompts],
        "sequence_token_ids": [r.sequence for r in responses],  # with what was said between turns
        "logp_rollout": [r.logp_rollout for r in responses],
        "policy_version": [r.policy_version for r in responses],
    }
    coefficients: list[np.ndarray | None] = [None] * len(responses)
    for name in ("mini_batch", "skipped", "logp_old"):
        columns[name] = [None] * len(responses)
    for part in parts:
        logp_old = np.split(part.logp_old, part.tokens.length.cumsum()[:-1])
        for i, (response, coefficient) in enumerate(part.tokens.by_response()):
            columns["mini_batch"][response] = int(part.mini_batch[i])
            columns["skipped"][response] = bool(part.skipped[i])
            columns["logp_old"][response] = logp_old[i]
            coefficients[response] = coefficient
    table = response_table(batch.step + 1, batch.groups, advantages, {IN_USE: coefficients})
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    return table
